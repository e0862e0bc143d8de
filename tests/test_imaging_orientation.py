"""EXIF orientation: the displayed image, and the way back to stored coordinates."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cascade.errors import ConfigError, ImageError, ShapeError
from cascade.imaging import (
    apply_orientation,
    displayed_shape,
    read_image,
    read_mask,
    read_shape,
    to_stored_box,
    to_stored_mask,
)
from cascade.imaging.orientation import exif_orientation, stored_orientation

ALL = range(1, 9)


def scene():
    rows, columns = np.mgrid[:48, :64]
    return np.dstack([rows * 5, columns * 3, (rows * columns) % 251]).astype(np.uint8)


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


def save(path, pixels, orientation):
    options = (
        {"tiffinfo": {274: orientation}} if path.suffix == ".tif" else {"exif": exif(orientation)}
    )
    if path.suffix == ".webp":
        options["lossless"] = True
    Image.fromarray(pixels).save(path, **options)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", ALL)
def test_all_orientations_display_as_pillow_transposes_them(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    save(path, scene(), orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    loaded = read_image(path)
    assert np.array_equal(loaded.pixels, expected)
    assert (loaded.orientation, loaded.stored_shape) == (orientation, (48, 64))
    assert read_shape(path) == expected.shape[:2]
    if suffix != ".jpg":
        assert np.array_equal(to_stored_mask(loaded.pixels, orientation), scene())


def test_transposed_pillow_image_is_not_turned_twice(tmp_path):
    path = tmp_path / "a.jpg"
    save(path, scene(), 6)
    with Image.open(path) as image:
        assert np.array_equal(
            read_image(ImageOps.exif_transpose(image)).pixels, read_image(path).pixels
        )


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG", exif=exif(8))
    data = buffer.getvalue()
    start = data.index(b"eXIf") - 4
    length = struct.unpack(">I", data[start : start + 4])[0] + 12
    chunk, rest = data[start : start + length], data[:start] + data[start + length :]
    end = rest.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(rest[:end] + chunk + rest[end:])
    assert read_image(path).orientation == 8
    assert read_shape(path) == (64, 48)


@given(st.data(), st.sampled_from(list(ALL)))
def test_box_and_mask_go_back_to_the_same_stored_place(data, orientation):
    height, width = data.draw(st.integers(2, 20)), data.draw(st.integers(2, 20))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(top + 1, height))
    right = data.draw(st.integers(left + 1, width))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    stored = to_stored_mask(mask, orientation)
    rows, columns = np.nonzero(stored)
    around = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    assert to_stored_box((top, left, bottom, right), orientation, (height, width)) == around
    assert np.array_equal(apply_orientation(stored, orientation), mask)
    assert stored.shape == displayed_shape((height, width), orientation)


@pytest.mark.parametrize("orientation", [0, 9, None])
def test_unknown_orientation_is_refused(orientation):
    with pytest.raises(ConfigError, match="1 to 8"):
        apply_orientation(scene(), orientation)
    with pytest.raises(ShapeError):
        to_stored_box((5, 0, 2, 3), 1, (10, 10))


@pytest.mark.parametrize(
    ("value", "warned"), [(0, False), (9, True), (65535, True)], ids=["none", "nine", "absurd"]
)
def test_useless_orientation_in_a_file_means_upright(tmp_path, value, warned):
    path = tmp_path / "a.jpg"
    save(path, scene(), value)
    loaded = read_image(path)
    assert loaded.orientation == 1
    assert bool(loaded.warnings) == warned


@given(st.binary(max_size=80))
def test_damaged_exif_never_fails(block):
    for prefix in (b"", b"Exif\0\0II*\0", b"MM\0*\0\0\0\x08"):
        assert exif_orientation(prefix + block)[0] in ALL


def test_mask_without_orientation_does_not_fit_its_turned_image(tmp_path):
    save(tmp_path / "image.jpg", scene(), 6)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    shape = read_shape(tmp_path / "image.jpg")
    for resize in (False, True):
        with pytest.raises(ImageError, match="EXIF"):
            read_mask(tmp_path / "mask.png", shape=shape, resize=resize)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation_of_a_mask_is_applied(tmp_path, suffix):
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:30] = 255
    save(tmp_path / f"mask{suffix}", mask, 6)
    expected = np.rot90(mask, -1) > 0
    assert np.array_equal(read_mask(tmp_path / f"mask{suffix}", shape=(64, 48)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_values_of_any_type_are_turned_as_bytes_are(orientation):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    turned = apply_orientation(values, orientation)
    bytes_turned = apply_orientation(values.astype(np.uint8), orientation)
    np.testing.assert_array_equal(turned, bytes_turned)
    assert turned.flags.c_contiguous


def test_a_hexadecimal_profile_of_a_png_holds_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    profile = "\nexif\n" + f"{len(block):8d}\n" + block.hex()
    assert stored_orientation({"Raw profile type exif": profile}) == (6, ())
    assert stored_orientation({"Raw profile type exif": "\nexif\n8\nnothing"})[1]
