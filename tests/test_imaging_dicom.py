"""DICOM images, built here with pydicom."""

import logging
import sys
import traceback

import numpy as np
import pytest
from drawn_dicom import PATIENT, dataset, encode
from drawn_files import P3, make_profile, p3_to_srgb
from drawn_files import scene as drawn

from cascade.errors import ImageError, MissingExtraError
from cascade.imaging import ImageLimits, read_image, read_shape

pydicom = pytest.importorskip("pydicom")

JPEG_2000 = "1.2.840.10008.1.2.4.90"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"


def scene():
    return drawn(48, 64)


def encapsulated(frame, colours, syntax, **tags):
    values = dataset(scene(), colours, syntax=syntax, **tags)
    values.PixelData = pydicom.encaps.encapsulate([frame])
    values["PixelData"].VR = "OB"
    return encode(values)


def test_rgb_keeps_its_pixels(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(encode(dataset(scene(), "RGB")))
    loaded = read_image(path)
    assert np.array_equal(loaded.pixels, scene())
    assert (loaded.orientation, loaded.stored_shape, loaded.warnings) == (1, (48, 64), ())
    assert read_shape(path) == (48, 64)


def test_planes_are_put_together():
    values = dataset(scene(), "RGB", PlanarConfiguration=1)
    values.PixelData = scene().transpose(2, 0, 1).tobytes()
    assert np.array_equal(read_image(encode(values)).pixels, scene())


def test_ybr_becomes_rgb():
    from pydicom.pixels import convert_color_space

    ybr = convert_color_space(scene(), "RGB", "YBR_FULL")
    loaded = read_image(encode(dataset(ybr, "YBR_FULL"))).pixels
    assert np.abs(loaded.astype(int) - scene()).max() <= 3


def test_palette_gives_its_colours():
    index = (np.arange(48 * 64).reshape(48, 64) % 4).astype(np.uint8)
    colours = np.array([[0, 10, 20], [255, 0, 0], [0, 255, 0], [40, 50, 60]], np.uint16)
    tags = {}
    for name, values in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = (values * 257).astype("<u2").tobytes()
    loaded = read_image(encode(dataset(index, "PALETTE COLOR", **tags))).pixels
    assert np.array_equal(loaded, colours[index])


def test_monochrome_is_scaled_by_its_bits_and_one_is_inverted():
    gray = scene()[..., 0].astype(np.uint16) * 16
    plain = read_image(encode(dataset(gray, "MONOCHROME2", BitsStored=12, HighBit=11))).pixels
    assert np.array_equal(plain[..., 1], np.rint(gray * (255 / 4095)))
    turned = read_image(encode(dataset(gray, "MONOCHROME1", BitsStored=12, HighBit=11))).pixels
    assert np.array_equal(turned, 255 - plain)


def test_window_and_rescale_are_applied():
    gray = np.tile(np.arange(64, dtype=np.int16) * 20, (48, 1))
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 0, "WindowWidth": 1001}
    loaded = read_image(encode(dataset(gray, "MONOCHROME2", **tags))).pixels[0, :, 0]
    expected = np.clip((gray[0] * 2.0 - 1000 + 500) / 1000, 0, 1) * 255
    assert np.abs(loaded - expected).max() <= 1


def test_jpeg_2000_lossless():
    pytest.importorskip("openjpeg")
    values = dataset(scene(), "RGB")
    values.compress(JPEG_2000, scene(), generate_instance_uid=False)
    loaded = read_image(encode(values))
    assert np.array_equal(loaded.pixels, scene())


def test_jpeg_baseline():
    pytest.importorskip("libjpeg")
    import simplejpeg

    frame = simplejpeg.encode_jpeg(scene(), 95, "RGB", "444")
    loaded = read_image(encapsulated(frame, "YBR_FULL_422", JPEG_BASELINE)).pixels
    assert np.abs(loaded.astype(int) - scene()).mean() < 2


def test_run_lengths():
    values = dataset(scene(), "RGB")
    values.compress(RLE, scene(), generate_instance_uid=False)
    assert np.array_equal(read_image(encode(values)).pixels, scene())


def test_frames_missing_cut_and_unknown_pixels_are_refused():
    with pytest.raises(ImageError, match="several frames"):
        read_image(encode(dataset(scene(), "RGB", NumberOfFrames=2)))
    values = dataset(scene(), "RGB")
    with pytest.raises(ImageError):
        read_image(encode(values)[:-2000])
    del values.PixelData
    with pytest.raises(ImageError, match="PixelData"):
        read_image(encode(values))
    del values.Rows
    with pytest.raises(ImageError, match=r"no (picture|image)"):
        read_image(encode(values))
    with pytest.raises(ImageError, match="not supported"):
        read_image(encode(dataset(scene(), "HSV")))
    with pytest.raises(ImageError, match="not supported"):
        read_image(encapsulated(b"\0" * 100, "RGB", "1.2.840.10008.1.2.4.100"))
    bits = dataset(scene()[..., 0], "MONOCHROME2", BitsAllocated=1, BitsStored=1, HighBit=0)
    with pytest.raises(ImageError, match="not supported"):
        read_image(encode(bits))


def test_deflated_file_is_read_within_bounds():
    deflated = "1.2.840.10008.1.2.1.99"
    data = encode(dataset(scene(), "RGB", syntax=deflated))
    assert np.array_equal(read_image(data).pixels, scene())
    with pytest.raises(ImageError, match="damaged"):
        read_image(data[: len(data) // 2])
    large = dataset(scene(), "RGB", syntax=deflated)
    large.PixelData = bytes(40_000_000)
    with pytest.raises(ImageError, match="do not fit its header"):
        read_image(encode(large))
    with pytest.raises(ImageError, match="megapixels"):
        read_image(encode(dataset(scene(), "RGB", syntax=deflated, Rows=60_000, Columns=60_000)))


@pytest.mark.parametrize(
    ("syntax", "options", "off"),
    [
        ("1.2.840.10008.1.2.4.80", {}, 0),
        ("1.2.840.10008.1.2.4.81", {"jls_error": 2}, 2),
        ("1.2.840.10008.1.2.4.91", {"j2k_cr": [5]}, 3),
    ],
)
def test_jpeg_ls_and_lossy_jpeg_2000(syntax, options, off):
    pytest.importorskip("jpeg_ls")
    values = dataset(scene(), "RGB")
    values.compress(syntax, scene(), generate_instance_uid=False, **options)
    assert np.abs(read_image(encode(values)).pixels.astype(int) - scene()).max() <= off


def test_half_of_the_colours_is_spread_again():
    from pydicom.pixels import convert_color_space

    pairs = np.repeat(scene()[:, ::2], 2, axis=1)
    ybr = convert_color_space(pairs, "RGB", "YBR_FULL").reshape(48, 32, 2, 3)
    packed = np.stack([ybr[..., 0, 0], ybr[..., 1, 0], ybr[..., 0, 1], ybr[..., 0, 2]], axis=-1)
    values = dataset(pairs, "YBR_FULL_422")
    values.PixelData = packed.tobytes()
    assert np.abs(read_image(encode(values)).pixels.astype(int) - pairs).max() <= 3
    planes = dataset(pairs, "YBR_FULL", PlanarConfiguration=1)
    planes.PixelData = ybr.reshape(48, 64, 3).transpose(2, 0, 1).tobytes()
    assert np.abs(read_image(encode(planes)).pixels.astype(int) - pairs).max() <= 3


def test_profile_is_converted_to_srgb():
    pixels = np.clip(scene(), 60, 200)
    loaded = read_image(encode(dataset(pixels, "RGB", ICCProfile=make_profile(P3)))).pixels
    assert np.abs(loaded - p3_to_srgb(pixels)).max() < 2
    gray = encode(dataset(pixels[..., 0], "MONOCHROME2", ICCProfile=make_profile(P3)))
    assert np.array_equal(read_image(gray).pixels[..., 0], pixels[..., 0])


def test_limits_hold_before_decoding():
    data = encode(dataset(scene(), "RGB"))
    with pytest.raises(ImageError, match="megapixels"):
        read_image(data, limits=ImageLimits(max_pixels=1000))
    with pytest.raises(ImageError, match="megapixels"):
        read_image(encode(dataset(scene(), "RGB", Rows=60_000, Columns=60_000)))


def test_streams_larger_than_their_header_are_refused():
    import simplejpeg

    frame = simplejpeg.encode_jpeg(np.zeros((4000, 4000, 3), np.uint8), 50, "RGB", "420")
    with pytest.raises(ImageError, match="do not fit"):
        read_image(encapsulated(frame, "YBR_FULL_422", JPEG_BASELINE))
    stream = b"\xff\x4f\xff\x51\0\x2f\0\0" + (30_000).to_bytes(4, "big") * 2 + bytes(60)
    with pytest.raises(ImageError, match="do not fit"):
        read_image(encapsulated(stream, "RGB", JPEG_2000))
    with pytest.raises(ImageError, match="do not fit"):
        read_image(encapsulated(bytes(100_000), "RGB", RLE))


def test_nothing_about_the_patient_is_told(caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    good = dataset(scene(), "RGB", PatientBirthDate="19700101")
    read_image(encode(good))
    for data in (encode(good)[:-3000], encode(dataset(scene(), PATIENT[:3].upper()))):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        assert PATIENT not in str(caught.value)
    assert PATIENT not in caplog.text
    assert not [warning for warning in recwarn if PATIENT in str(warning.message)]


def test_damaged_length_that_swallows_the_patient_tells_nothing(caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    told = []
    data = encode(dataset(scene(), "RGB", StudyDescription=PATIENT, RescaleSlope="1"))
    for tag in (b"\x02\0\x10\0UI", b"\x28\0\x04\0CS", b"\x28\0\x53\x10DS", b"\x08\0\x30\x10LO"):
        place = data.index(tag) + len(tag)
        for length in (60, 300, 2000):
            damaged = data[:place] + length.to_bytes(2, "little") + data[place + 2 :]
            try:
                read_image(damaged)
            except ImageError as error:
                told.append("".join(traceback.format_exception(error)))
    assert told
    assert PATIENT not in "".join(told)
    assert PATIENT not in caplog.text
    assert not [warning for warning in recwarn if PATIENT in str(warning.message)]


def test_random_damage_never_escapes_as_another_error():
    data = encode(dataset(scene(), "RGB"))
    generator = np.random.default_rng(3)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = generator.integers(132, 700, 5)
        damaged[places] = generator.integers(0, 256, 5)
        try:
            read_image(damaged.tobytes())
        except ImageError:
            continue


def test_missing_extra_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cascade\[dicom\]"):
        read_image(encode(dataset(scene(), "RGB")))
