"""Bad, odd and hostile images: what is refused, what is read and with which pixels."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import time
import zlib

import cv2
import numpy as np
import pytest
from drawn_files import encode, png, scene
from PIL import Image

from cascade.errors import ConfigError, ImageError, ShapeError
from cascade.imaging import ImageLimits, read_image, read_shape
from cascade.imaging.codecs.jpeg import NO_END


def jpeg(**options):
    return encode(scene(), "JPEG", **({"quality": 92} | options))


# --- files that are no image ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>no such picture</html>", "web page"),
        (bytes(5000), "not an image"),
        (b"%PDF-1.7\n%...", "PDF"),
        (b"8BPS\x00\x01" + bytes(200), "Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "PostScript"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "XML"),
        (b"\x00\x00\x00\x1cftypisom" + bytes(100), "not an image"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(100), "raw camera"),
        (b"PK\x03\x04" + bytes(100), "ZIP"),
        (b"P6 64 64 255\n" + bytes(64 * 64 * 3), "not an image"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, data, words):
    path = tmp_path / "lesion.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert "lesion.png" in str(caught.value)
    with pytest.raises(ImageError, match=words):
        read_shape(path)
    with pytest.raises(ImageError, match=words):
        read_image(data)


def test_pipe_device_folder_and_links_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    started = time.monotonic()
    for path in ("pipe.jpg", "dangling.jpg", "loop.jpg", "missing.jpg", ""):
        with pytest.raises(ImageError):
            read_image(tmp_path / path)
    for path in ("/dev/zero", "/dev/null", "", "a\0b.jpg"):
        with pytest.raises(ImageError):
            read_image(path)
    assert time.monotonic() - started < 1


def test_file_without_permission_is_an_image_error(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encode(scene(), "PNG"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], io.BytesIO(b"x")])
def test_other_types_are_refused(source):
    with pytest.raises(ImageError, match="give a path"):
        read_image(source)


# --- damaged images ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_cut_jpeg_is_refused_unless_allowed(options, share):
    data = jpeg(**options)
    cut = data[: int(len(data) * share)]
    with pytest.raises(ImageError, match="damaged JPEG"):
        read_image(cut)


def test_cut_jpeg_that_is_allowed_carries_a_warning():
    data = jpeg()
    loaded = read_image(data[: len(data) // 2], limits=ImageLimits(allow_truncated=True))
    assert loaded.pixels.shape == (96, 128, 3)
    assert "damaged JPEG" in loaded.warnings[0]
    assert np.abs(loaded.pixels[:20].astype(int) - scene()[:20]).mean() < 4


def test_corrupted_bytes_in_a_jpeg_are_noticed():
    data = jpeg()
    for seed in range(10):
        generator = np.random.default_rng(seed)
        damaged = np.frombuffer(data, np.uint8).copy()
        places = generator.choice(np.arange(len(data) // 3, len(data) - 2), 200, replace=False)
        damaged[places] ^= generator.integers(1, 256, 200).astype(np.uint8)
        with pytest.raises(ImageError):
            read_image(damaged.tobytes())


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_without_end_marker_is_whole_and_never_repaired_on_disk(tmp_path, missing, options):
    data = jpeg(**options)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:-missing])
    loaded = read_image(path)
    assert loaded.warnings == (NO_END,)
    assert np.array_equal(loaded.pixels, read_image(data).pixels)
    assert path.read_bytes() == data[:-missing]


def test_bytes_after_a_jpeg_are_harmless():
    assert read_image(jpeg() + b"motion photo" * 100).warnings == ()


def test_jpeg_with_thousands_of_scans_is_refused_quickly():
    data = encode(scene(), "JPEG", progressive=True)
    position = data.rindex(b"\xff\xda")
    started = time.monotonic()
    with pytest.raises(ImageError, match="scans"):
        read_image(data[:position] + data[position:-2] * 5000 + b"\xff\xd9")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_cut_file_of_another_format_is_refused(kind):
    data = encode(scene(), kind)
    for share in (0.1, 0.95):
        with pytest.raises(ImageError):
            read_image(data[: int(len(data) * share)])


def test_corrupted_png_pixels_are_noticed_by_their_checksum():
    data = bytearray(encode(scene(), "PNG", compress_level=0))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(ImageError, match="checksum"):
        read_image(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_random_damage_never_escapes_as_another_error(kind):
    data = encode(scene(40, 48), kind)
    generator = np.random.default_rng(7)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = generator.integers(0, min(len(data), 400), 6)
        damaged[places] = generator.integers(0, 256, 6)
        try:
            read_image(damaged.tobytes())
        except ImageError:
            continue


# --- sizes -----------------------------------------------------------------------------------


def empty_png(side):
    """A valid 1-bit PNG of side x side pixels, a few kilobytes long."""
    line = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(line * 100) for _ in range(side // 100)) + packer.flush()
    return png(side, side, bits=1, data=data)


_MEASURE = """
    import resource, sys, time
    from cascade.errors import ImageError
    from cascade.imaging import read_image
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    try:
        read_image(sys.argv[1])
    except ImageError as error:
        message = str(error)
    seconds = time.perf_counter() - started
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(f"{growth / 1024:.1f} {seconds * 1000:.1f} {message}")
"""


@pytest.mark.parametrize("side", [30_000, 12_000])
def test_bomb_is_refused_from_its_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(empty_png(side))
    command = [sys.executable, "-c", textwrap.dedent(_MEASURE), str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    megabytes, milliseconds, message = output.split(" ", 2)
    assert "megapixels" in message
    assert float(megabytes) < 30
    assert float(milliseconds) < 50


def huge_headers():
    side = 2**31 - 1
    yield "png", png(side, side)
    screen = struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    frame = struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    yield "gif", b"GIF89a" + screen + b"," + frame + bytes(20)
    sides = struct.pack("<IHHIIiiHH", 999, 0, 0, 54, 40, side, side, 1, 24)
    yield "bmp", b"BM" + sides + bytes(24)
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2
    yield "webp", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    tags = [(256, 4, 60000), (257, 4, 60000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (279, 4, 9)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    yield "tiff", b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    head = jpeg()
    place = head.index(b"\xff\xc0")
    yield "jpeg", head[: place + 5] + struct.pack(">HH", 65500, 65500) + head[place + 9 :]


@pytest.mark.parametrize(("kind", "data"), list(huge_headers()))
def test_absurd_size_in_the_header_is_refused(kind, data):
    with pytest.raises(ImageError, match="megapixels"):
        read_image(data)


@pytest.mark.parametrize(
    ("shape", "words"), [((1, 1), "small"), ((1, 10_000), "small"), ((40, 4000), "aspect")]
)
def test_tiny_and_elongated_pictures_are_refused(shape, words):
    with pytest.raises(ImageError, match=words):
        read_image(encode(np.zeros((*shape, 3), np.uint8), "PNG"))
    with pytest.raises(ImageError, match=words):
        read_image(np.zeros((*shape, 3), np.uint8))


def test_limits_are_the_callers(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(scene(), "PNG"))
    with pytest.raises(ImageError, match="MB"):
        read_image(path, limits=ImageLimits(max_bytes=100))
    with pytest.raises(ImageError, match="megapixels"):
        read_image(path, limits=ImageLimits(max_pixels=100))
    assert read_image(np.zeros((8, 8, 3), np.uint8), limits=ImageLimits(min_side=8)).shape == (8, 8)
    with pytest.raises(ConfigError):
        ImageLimits(min_side=0)


def test_large_jpeg_is_decoded_at_a_fraction_on_request():
    pixels = cv2.resize(scene(300, 400), (2400, 1800), interpolation=cv2.INTER_CUBIC)
    data = encode(pixels, "JPEG", quality=95)
    loaded = read_image(data, short_side=400)
    assert 400 <= min(loaded.shape) < 800
    assert loaded.stored_shape == (1800, 2400)
    expected = cv2.resize(pixels, loaded.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(loaded.pixels.astype(int) - expected).mean() < 3
    assert read_image(data, short_side=3000).shape == (1800, 2400)


# --- the same image in every form ----------------------------------------------------------


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


FORMS = {
    "jpeg": ("JPEG", {"quality": 85, "subsampling": 2}),
    "progressive": ("JPEG", {"progressive": True}),
    "rotated": ("JPEG", {"exif": exif(6)}),
    "png": ("PNG", {}),
    "tiff": ("TIFF", {"tiffinfo": {274: 8}}),
    "webp": ("WEBP", {"quality": 70}),
    "gif": ("GIF", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_path_bytes_pillow_array_and_tensor_give_the_same_pixels(tmp_path, form):
    tensor = pytest.importorskip("torch").from_numpy
    kind, options = FORMS[form]
    data = encode(scene(), kind, **options)
    path = tmp_path / f"ä {form}"
    path.write_bytes(data)
    expected = read_image(path).pixels
    loaded = Image.open(path)
    loaded.load()
    for source in (
        str(path), data, bytearray(data), Image.open(path), Image.open(io.BytesIO(data)), loaded,
        expected, np.asfortranarray(expected), tensor(expected), tensor(expected).permute(2, 0, 1),
    ):  # fmt: skip
        assert np.array_equal(read_image(source).pixels, expected), type(source)
    assert np.array_equal(read_image(expected[..., ::-1], bgr=True).pixels, expected)
    assert np.array_equal(read_image(path, bgr=True).pixels, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_pillow_images_in_memory_match_their_files(mode):
    if mode == "I;16":
        image = Image.fromarray(scene()[..., 0].astype(np.uint16) * 201)
    elif mode in ("RGBA", "LA"):
        image = Image.fromarray(scene()).convert(mode)
        image.putalpha(Image.fromarray(scene()[..., 1]))
    else:
        image = Image.fromarray(scene()).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert np.array_equal(read_image(image).pixels, read_image(encode(image, kind)).pixels)


def test_opened_pillow_image_is_read_strictly_and_left_as_it_was():
    data = jpeg()
    with pytest.raises(ImageError, match="damaged"):
        read_image(Image.open(io.BytesIO(data[: len(data) // 2])))
    image = Image.open(io.BytesIO(data))
    read_image(image)
    image.load()
    assert image.size == (128, 96)


def test_second_frame_of_a_pillow_image_stays_the_second():
    frames = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (40, 200)]
    image = Image.open(
        io.BytesIO(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    )
    image.seek(1)
    assert abs(int(read_image(image).pixels.mean()) - 200) <= 2


def test_array_is_copied():
    pixels = scene()
    loaded = read_image(pixels)
    pixels[:] = 0
    assert loaded.pixels.any()
    assert loaded.name == "image"


@pytest.mark.parametrize(
    "pixels", [scene() / 255, scene().astype(np.float32), scene()[..., 0], scene()[None]]
)
def test_arrays_that_are_not_uint8_rgb_are_refused(pixels):
    with pytest.raises(ShapeError, match="uint8"):
        read_image(pixels)


# --- names and state -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["皮膚🙂.png", "two\nlines.png", "-rf.png", "a" * 251 + ".PNG"])
def test_odd_names_work_and_messages_about_them_stay_on_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(scene(), "PNG"))
    assert read_image(path).name == name
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).isprintable()
