"""HEIC, AVIF, JPEG 2000 and JPEG XL: what holds for JPEG holds for them."""

import contextlib
import io
import struct
import sys

import numpy as np
import pytest
from drawn_files import P3, encode, make_profile, p3_to_srgb, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cascade.errors import CascadeError, ImageError, MissingExtraError
from cascade.imaging import ImageLimits, iter_image_paths, read_image, read_mask, read_shape
from cascade.imaging.codecs.av1 import largest_stream
from cascade.imaging.codecs.boxes import CODED_COLOURS
from cascade.imaging.codecs.jpeg_xl import read_jxl_header
from cascade.imaging.orientation import apply_orientation

pillow_heif = pytest.importorskip("pillow_heif")
pillow_jxl = pytest.importorskip("pillow_jxl")
pillow_heif.register_heif_opener()

KINDS = {
    "heic": ("HEIF", {"quality": -1, "chroma": 444}, 3),
    "avif": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 3),
    "jp2": ("JPEG2000", {}, 0),
    "j2k": ("JPEG2000", {"no_jp2": True}, 0),
    "jxl": ("JXL", {"lossless": True}, 0),
}
"""Suffix to Pillow's name, options for the least loss, and the largest loss of 255."""


def made(suffix, image=None, **options):
    kind, best, _ = KINDS[suffix]
    return encode(scene() if image is None else image, kind, **best | options)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def difference(first, second):
    return np.abs(first.astype(int) - second).max()


def without_extras(monkeypatch):
    for name in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("suffix", KINDS)
def test_file_gives_its_pixels_and_its_shape_by_content_not_by_name(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(made(suffix))
    loaded = read_image(tmp_path / f"a.{suffix}")
    assert difference(loaded.pixels, scene()) <= KINDS[suffix][2]
    assert (loaded.orientation, loaded.stored_shape, loaded.warnings) == (1, (96, 128), ())
    assert read_shape(tmp_path / f"a.{suffix}") == (96, 128)
    (tmp_path / "b.png").write_bytes(made(suffix))
    renamed = read_image(tmp_path / "b.png")
    assert np.array_equal(renamed.pixels, loaded.pixels)
    assert "named .png but holds" in renamed.warnings[0]


@pytest.mark.parametrize("suffix", KINDS)
def test_gray_and_transparent_images_look_as_their_png(suffix):
    transparent = np.dstack([scene(), scene()[..., 0]])
    for pixels in (scene()[..., 0], transparent):
        expected = read_image(encode(pixels, "PNG")).pixels
        assert difference(read_image(made(suffix, pixels)).pixels, expected) <= KINDS[suffix][2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_orientation_is_applied_once_in_whatever_form_it_comes(tmp_path, suffix, orientation):
    data = made(suffix, exif=turned(orientation))
    expected = apply_orientation(scene(), orientation)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    in_memory = Image.open(io.BytesIO(data))
    in_memory.load()
    for source in (data, path, opened, in_memory):
        loaded = read_image(source)
        assert loaded.shape == loaded.full_shape == expected.shape[:2]
        assert difference(loaded.pixels, expected) <= KINDS[suffix][2]
    assert read_shape(path) == expected.shape[:2]


def test_jpeg_xl_made_from_a_jpeg_is_that_jpeg(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(scene(), "JPEG", quality=90, exif=turned(6)))
    buffer = io.BytesIO()
    Image.open(tmp_path / "a.jpg").save(buffer, "JXL", lossless_jpeg=True)
    loaded, expected = read_image(buffer.getvalue()), read_image(tmp_path / "a.jpg")
    assert (loaded.orientation, loaded.stored_shape, loaded.shape) == (6, (96, 128), (128, 96))
    assert np.array_equal(loaded.pixels, expected.pixels)


def test_jpeg_xl_ignores_the_orientation_of_exif_as_its_standard_asks():
    loaded = read_image(made("jxl", exif=turned(6)))
    assert np.array_equal(loaded.pixels, scene())


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (33, 44), (64, 256), (99, 100), (40, 700), (600, 36)]
)
def test_jpeg_xl_header_is_read_without_its_library(monkeypatch, height, width):
    data = [
        made("jxl", np.zeros((height, width), np.uint8), use_container=boxed)
        for boxed in (False, True)
    ]
    without_extras(monkeypatch)
    assert [read_jxl_header(each) for each in data] == [((height, width), 1)] * 2


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_display_p3_is_converted_to_srgb(suffix):
    pixels = np.clip(scene(), 60, 200)
    loaded = read_image(made(suffix, pixels, icc_profile=make_profile(P3)))
    assert np.abs(loaded.pixels - p3_to_srgb(pixels)).mean() < 1
    assert difference(loaded.pixels, pixels) > 10
    assert loaded.warnings == ()


def test_display_p3_of_jpeg_2000_is_found_in_its_box():
    data, profile = made("jp2"), make_profile(P3)
    head = data.index(b"jp2h") - 4
    (size,) = struct.unpack(">I", data[head : head + 4])
    colours = data.index(b"colr", head) - 4
    (old,) = struct.unpack(">I", data[colours : colours + 4])
    box = struct.pack(">I4sBBB", 11 + len(profile), b"colr", 2, 0, 0) + profile
    grown = struct.pack(">I", size + len(box) - old)
    changed = data[:head] + grown + data[head + 4 : colours] + box + data[colours + old :]
    expected = read_image(encode(scene(), "PNG", icc_profile=profile)).pixels
    assert difference(expected, scene()) > 20
    assert np.array_equal(read_image(changed).pixels, expected)


def test_ten_bits_are_scaled_by_their_largest_value():
    values = np.linspace(0, 65535, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint16)
    image = pillow_heif.from_bytes("RGB;16", (128, 96), values.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, quality=-1, chroma=444)
    loaded = read_image(buffer.getvalue()).pixels
    assert loaded.max() == 255
    assert difference(loaded, np.rint(values / 257)) <= 2


def test_sixteen_bits_of_gray_jpeg_2000_are_divided_by_257():
    values = np.linspace(0, 65535, 96 * 128).reshape(96, 128).astype(np.uint16)
    loaded = read_image(made("jp2", Image.fromarray(values))).pixels
    assert np.array_equal(loaded[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_colours_coded_by_a_number_are_warned_of(suffix):
    data = made(suffix)
    assert read_image(data).warnings == ()
    start = data.index(b"colrnclx") + 8
    wide = data[:start] + struct.pack(">HH", 9, 16) + data[start + 4 :]
    assert read_image(wide).warnings == (CODED_COLOURS,)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("suffix", KINDS)
def test_cut_file_is_refused_by_name(tmp_path, suffix, share):
    data = made(suffix)
    (tmp_path / f"a.{suffix}").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"a\.{suffix}: .*(damaged|cut)"):
        read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", KINDS)
def test_random_damage_never_escapes_as_another_error(suffix):
    data = made(suffix, scene(40, 48))
    generator = np.random.default_rng(3)
    for _ in range(40):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = generator.integers(0, len(data), 3)
        damaged[places] = generator.integers(0, 256, 3)
        try:
            read_image(damaged.tobytes())
        except CascadeError:
            continue


def _j2k_claims(data, width, height):
    start = data.index(b"\xff\x4f\xff\x51") + 8
    return data[:start] + struct.pack(">II", width, height) + data[start + 8 :]


def _boxed_claims(data, width, height):
    return data.replace(
        b"ispe\0\0\0\0" + struct.pack(">II", 128, 96),
        b"ispe\0\0\0\0" + struct.pack(">II", width, height),
    )


BOMBS = {
    "heic": lambda: _boxed_claims(made("heic"), 16000, 16000),
    "avif": lambda: _boxed_claims(made("avif"), 16000, 16000),
    "j2k": lambda: _j2k_claims(made("j2k"), 16000, 16000),
    "jxl": lambda: made("jxl", Image.new("L", (8000, 8000)), effort=1),
}


@pytest.mark.parametrize("suffix", BOMBS)
def test_bomb_is_refused_from_its_header(monkeypatch, suffix):
    data = BOMBS[suffix]()
    monkeypatch.setattr("cascade.imaging.read.decode", None)  # never called
    with pytest.raises(ImageError, match=r"too large, (16000 x 16000|8000 x 8000) pixels"):
        read_image(data)


def test_code_stream_of_another_size_than_its_box_is_refused():
    with pytest.raises(ImageError, match="its two headers differ"):
        read_image(_j2k_claims(made("jp2"), 16000, 16000))
    with pytest.raises(ImageError, match="damaged"):  # libheif compares on its own
        read_image(_boxed_claims(made("heic"), 64, 64))


def _track_claims(data, width, height):
    """In the header of each track and of its samples."""
    fixed = struct.pack(">II", 128 << 16, 96 << 16), struct.pack(">II", width << 16, height << 16)
    return data.replace(*fixed).replace(
        struct.pack(">HH", 128, 96), struct.pack(">HH", width, height)
    )


def _sequence(shape=(96, 128), alpha=False):
    """An AVIF of two frames, or one with transparency."""
    image = Image.new("RGBA" if alpha else "RGB", shape[::-1], (200, 120, 90))
    file = io.BytesIO()
    image.save(file, "AVIF", **({} if alpha else {"save_all": True, "append_images": [image]}))
    return file.getvalue()


@pytest.mark.parametrize("data", [made("avif"), _sequence(), _sequence(alpha=True)])
def test_an_avif_stream_much_larger_than_its_box_is_refused(monkeypatch, data):
    """libavif would decode it, however large, and scale it to the size in the box."""
    assert largest_stream(data) == 96 * 128
    read_image(data)
    monkeypatch.setattr("cascade.imaging.read.decode", None)  # never called
    with pytest.raises(ImageError, match="its two headers differ"):
        read_image(_track_claims(_boxed_claims(data, 64, 64), 64, 64))


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    alpha=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_the_size_of_an_avif_stream_is_that_of_the_image(shape, alpha):
    assert largest_stream(_sequence(shape, alpha)) == shape[0] * shape[1]


@given(position=st.integers(0, 10_000), value=st.binary(min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_damaged_avif_is_a_value_error_at_most(position, value):
    data = made("avif")
    start = position % len(data)
    with contextlib.suppress(ValueError, struct.error):
        largest_stream(data[:start] + value + data[start + len(value) :])


def test_a_table_of_countless_parts_is_refused_at_once():
    item = struct.pack(">HHHH", 1, 0, 0, 65535)  # no number has any bytes
    table = b"\1\0\0\0\0\0" + struct.pack(">H", 60_000) + item * 60_000
    box = struct.pack(">I4s", 8 + len(table), b"iloc") + table
    data = struct.pack(">I4sI", 12 + len(box), b"meta", 0) + box
    with pytest.raises(ValueError, match="more than 1000 parts"):
        largest_stream(data)


@pytest.mark.parametrize("suffix", KINDS)
def test_limits_are_those_of_the_caller(suffix):
    with pytest.raises(ImageError, match="too large"):
        read_image(made(suffix), limits=ImageLimits(max_pixels=5000))
    with pytest.raises(ImageError, match="too small"):
        read_image(made(suffix, scene(16, 40)))


@pytest.mark.parametrize("suffix", KINDS)
def test_reduced_reading_averages_the_whole_image(suffix):
    pixels = scene(256, 320)
    whole = read_image(made(suffix, pixels))
    half = read_image(made(suffix, pixels), short_side=100)
    assert (half.shape, half.full_shape, half.divisor) == ((128, 160), (256, 320), 2)
    means = whole.pixels.reshape(128, 2, 160, 2, 3).mean(axis=(1, 3))
    assert np.abs(half.pixels - means).max() <= 1


@pytest.mark.parametrize("suffix", KINDS)
def test_mask_of_any_format_is_read(suffix, tmp_path):
    mask = np.zeros((64, 80), np.uint8)
    mask[20:40, 30:60] = 255
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(made(suffix, mask))
    assert np.array_equal(read_mask(path), mask > 0)


def test_folder_lists_all_suffixes(tmp_path):
    names = ["a.HEIC", "b.heif", "c.hif", "d.avif", "e.jp2", "f.J2K", "g.jxl"]
    for name in names:
        (tmp_path / name).write_bytes(b"?")
    assert [found.path.name for found in iter_image_paths(tmp_path)] == names


@pytest.mark.parametrize(("suffix", "extra"), [("heic", "heif"), ("jxl", "jxl")])
def test_missing_extra_names_what_to_install(monkeypatch, suffix, extra):
    data = made(suffix)
    without_extras(monkeypatch)
    with pytest.raises(MissingExtraError, match=rf"^image: .*pip install 'cascade\[{extra}\]"):
        read_image(data)
