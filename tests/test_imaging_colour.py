"""Formats, depths, transparency and colour profiles: which pixels come out."""

import io
import zlib

import numpy as np
import pytest
from drawn_files import P3, SRGB, encode, make_profile, p3_to_srgb, png, scene
from PIL import Image

from cascade.errors import ImageError
from cascade.imaging import read_image, read_shape
from cascade.imaging.colour import PROFILE_IGNORED
from cascade.imaging.decode import MANY_FRAMES


def deep_png(values):
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], bits=16, colour=colour, data=zlib.compress(lines))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_give_their_pixels(tmp_path, kind, options):
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(encode(scene(), kind, **options))
    loaded = read_image(path)
    assert np.array_equal(loaded.pixels, scene())
    assert (loaded.pixels.dtype, loaded.warnings, loaded.name) == (np.uint8, (), path.name)
    assert loaded.pixels.flags.writeable
    assert loaded.pixels.flags.c_contiguous
    assert read_shape(path) == (96, 128)


def test_wrong_suffix_is_noted(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(scene(), "PNG"))
    loaded = read_image(path)
    assert loaded.warnings == ("named .jpg but holds PNG data",)
    assert np.array_equal(loaded.pixels, scene())


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_gray_pictures_become_rgb(mode):
    gray = Image.fromarray(scene()[..., 0])
    loaded = read_image(encode(gray.convert(mode), "PNG"))
    expected = np.asarray(gray.convert(mode).convert("L"))
    assert np.array_equal(loaded.pixels, np.dstack([expected] * 3))


def test_transparent_pixels_are_blended_onto_white():
    alpha = np.zeros((96, 128), np.uint8)
    alpha[:, 40:80], alpha[:, 80:] = 128, 255
    loaded = read_image(encode(np.dstack([scene(), alpha]), "PNG")).pixels
    share = alpha[..., None] / 255
    expected = scene() * share + 255 * (1 - share)
    assert np.abs(loaded - expected).max() <= 1
    assert (loaded[:, :40] == 255).all()


def test_transparent_palette_colour_is_blended_onto_white():
    image = Image.fromarray((scene()[..., 0] > 128).astype(np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    loaded = read_image(encode(image, "PNG", transparency=0)).pixels
    dark = scene()[..., 0] <= 128
    assert (loaded[dark] == 255).all()
    assert (loaded[~dark] == (200, 100, 50)).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation_with_a_warning(kind):
    frames = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (40, 120, 200)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    loaded = read_image(data)
    assert loaded.warnings == (MANY_FRAMES,)
    assert np.abs(loaded.pixels.astype(int) - 40).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_divided_by_257(channels):
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, channels)).astype(np.uint16)
    values[0, :2] = [[0], [65535]]
    expected = np.rint(values / 257).astype(np.uint8)
    loaded = read_image(deep_png(values)).pixels
    assert np.array_equal(loaded, np.broadcast_to(expected, (40, 50, 3)))


def test_sixteen_bit_transparency_is_blended():
    values = np.full((40, 50, 4), 65535, np.uint16)
    values[..., :3], values[:20, :, 3] = 10_000, 0
    loaded = read_image(deep_png(values)).pixels
    assert (loaded[:20] == 255).all()
    assert (loaded[20:] == round(10_000 / 257)).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((64, 64), np.nan, np.float32), "floating point"),
        (np.zeros((64, 64), np.int32), "32-bit"),
    ],
)
def test_tiff_of_other_numbers_is_refused(values, words):
    with pytest.raises(ImageError, match=words):
        read_image(encode(Image.fromarray(values), "TIFF"))


def test_cmyk_jpeg_has_the_right_colours():
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0], red[..., 1] = 220, 30
    data = encode(Image.fromarray(red).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    loaded = read_image(data).pixels
    assert np.abs(loaded.astype(int) - red).max() < 6
    assert np.array_equal(loaded, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_display_p3_is_converted_to_srgb(kind):
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    pixels = np.clip(scene(), 60, 200)
    loaded = read_image(encode(pixels, kind, icc_profile=make_profile(P3), **options))
    difference = np.abs(loaded.pixels - p3_to_srgb(pixels))
    assert difference.mean() < 1
    assert kind == "JPEG" or difference.max() < 2
    assert np.abs(loaded.pixels.astype(int) - pixels).max() > 10
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    "profile", [b"rubbish" * 30, make_profile(P3)[:200], make_profile(P3, space=b"CMYK")]
)
def test_broken_profile_is_ignored_with_a_warning(profile):
    loaded = read_image(encode(scene(), "PNG", icc_profile=profile))
    assert np.array_equal(loaded.pixels, scene())
    assert loaded.warnings == (PROFILE_IGNORED,)


def test_sixteen_bit_gray_tiff_is_scaled_and_an_srgb_profile_changes_nothing():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    loaded = read_image(encode(Image.fromarray(values), "TIFF")).pixels
    assert np.array_equal(loaded[..., 0], np.rint(values / 257))
    data = encode(scene(), "PNG", icc_profile=make_profile(SRGB))
    assert np.array_equal(read_image(data).pixels, scene())


def test_gray_jpeg_with_an_rgb_profile_stays_gray():
    data = encode(scene()[..., 0], "JPEG", icc_profile=make_profile(P3))
    loaded = read_image(data)
    assert np.ptp(loaded.pixels.astype(int), axis=2).max() <= 1
    assert loaded.warnings == ()


def test_tall_pictures_are_converted_whole():
    alpha = np.full((700, 40), 100, np.uint8)
    pixels = np.dstack([np.resize(scene(), (700, 40, 3)), alpha])
    loaded = read_image(encode(pixels, "PNG")).pixels
    share = 100 / 255
    assert loaded.shape == (700, 40, 3)
    assert np.abs(loaded - (pixels[..., :3] * share + 255 * (1 - share))).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_profile_is_obeyed_alike_in_a_loaded_pillow_image(kind):
    data = encode(scene(), kind, icc_profile=make_profile(P3))
    image = Image.open(io.BytesIO(data))
    image.load()
    assert np.array_equal(read_image(image).pixels, read_image(data).pixels)


def test_deep_png_opened_by_pillow_keeps_its_low_bytes():
    values = np.random.default_rng(1).integers(0, 65536, (40, 50, 3)).astype(np.uint16)
    image = Image.open(io.BytesIO(deep_png(values)))
    assert np.array_equal(read_image(image).pixels, np.rint(values / 257))
