"""Masks in every way people save them, and those that would have to be guessed."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from cascade.errors import ImageError, ShapeError
from cascade.imaging import check_image, check_mask, read_image, read_mask, write_image, write_mask


def lesion(height=90, width=120):
    rows, columns = np.mgrid[:height, :width]
    return ((rows - 40) / 25) ** 2 + ((columns - 60) / 38) ** 2 < 1


def save(path, values, **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


def palette(colours):
    image = Image.fromarray(lesion().astype(np.uint8)).convert("P")
    image.putpalette(colours)
    return image


ZERO_ONE = lesion().astype(np.uint8)
BLACK_WHITE = ZERO_ONE * 255
WRITTEN = {
    "0/1": ZERO_ONE,
    "0/255": BLACK_WHITE,
    "bool": lesion(),
    "16 bit 0/65535": ZERO_ONE.astype(np.uint16) * 65535,
    "16 bit 0/1": ZERO_ONE.astype(np.uint16),
    "rgb 0/1": np.dstack([ZERO_ONE] * 3),
    "rgba": np.dstack([BLACK_WHITE] * 3 + [np.full_like(ZERO_ONE, 255)]),
    "palette backwards": None,
    "nearly white": np.where(lesion(), 250, 3).astype(np.uint8),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_every_plain_form_gives_the_same_mask(tmp_path, form):
    values = WRITTEN[form]
    if values is None:
        values = Image.fromarray((~lesion()).astype(np.uint8)).convert("P")
        values.putpalette([255, 255, 255, 0, 0, 0])
    mask = read_mask(save(tmp_path / "mask.png", values), shape=(90, 120))
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, lesion())


@pytest.mark.parametrize(("channels", "quality"), [(1, 95), (3, 30)])
def test_ringing_of_jpeg_is_cut_at_the_middle(tmp_path, channels, quality):
    path = save(
        tmp_path / "mask.jpg", np.dstack([BLACK_WHITE] * channels).squeeze(), quality=quality
    )
    with Image.open(path) as image:
        assert len(image.convert("L").getcolors()) > 2
    mask = read_mask(path)
    assert np.count_nonzero(mask != lesion()) < 0.01 * lesion().sum()


@pytest.mark.parametrize(("value", "expected"), [(0, False), (1, True), (255, True)])
def test_constant_masks_are_empty_or_full(tmp_path, value, expected):
    mask = read_mask(save(tmp_path / "mask.png", np.full((64, 64), value, np.uint8)))
    assert (mask == expected).all()


def three_classes():
    values = BLACK_WHITE.copy()
    values[:, :30][~lesion()[:, :30]] = 127
    return values


AMBIGUOUS = {
    "probabilities": (cv2.GaussianBlur(BLACK_WHITE, (0, 0), 15), "gray areas"),
    "three classes": (three_classes(), "gray areas"),
    "class numbers": (ZERO_ONE * 2, "brightest value"),
    "half white": (ZERO_ONE * 128, "brightest value"),
    "photograph": (np.dstack([BLACK_WHITE, BLACK_WHITE // 2, ZERO_ONE]), "coloured"),
    "coloured palette": (palette([0, 0, 0, 128, 0, 0]), "coloured"),
    "transparent": (np.dstack([ZERO_ONE] * 3 + [BLACK_WHITE]), "transparent"),
    "inverted": (255 - BLACK_WHITE, "inverted"),
    "inverted 0/1": (1 - ZERO_ONE, "inverted"),
}


@pytest.mark.parametrize("form", AMBIGUOUS)
def test_what_would_be_a_guess_is_refused(tmp_path, form):
    values, words = AMBIGUOUS[form]
    with pytest.raises(ImageError, match=words) as caught:
        read_mask(save(tmp_path / "mask.png", values))
    assert "mask.png" in str(caught.value)


def test_other_size_is_refused_or_resized_on_request(tmp_path):
    path = save(tmp_path / "mask.png", BLACK_WHITE)
    with pytest.raises(ImageError, match="120 x 90 pixels but its image 240 x 180"):
        read_mask(path, shape=(180, 240))
    mask = read_mask(path, shape=(180, 240), resize=True)
    assert np.array_equal(mask, np.kron(lesion(), np.ones((2, 2), bool)))


def test_broken_masks_are_refused(tmp_path):
    path = save(tmp_path / "mask.png", BLACK_WHITE)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError):
        read_mask(path)
    with pytest.raises(ImageError):
        read_mask(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="float32"):
        read_mask(save(tmp_path / "mask.tif", lesion().astype(np.float32)))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="pipe"):
        read_mask(tmp_path / "pipe.png")


def test_written_mask_and_image_read_back(tmp_path):
    write_mask(tmp_path / "mask.png", lesion())
    assert np.array_equal(read_mask(tmp_path / "mask.png"), lesion())
    with Image.open(tmp_path / "mask.png") as image:
        assert (image.mode, sorted(set(image.tobytes()))) == ("L", [0, 255])
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    write_image(tmp_path / "image.png", pixels)
    assert np.array_equal(read_image(tmp_path / "image.png").pixels, pixels)
    smooth = cv2.GaussianBlur(pixels, (0, 0), 8)
    write_image(tmp_path / "image.jpg", smooth[:, ::-1])
    read = read_image(tmp_path / "image.jpg").pixels
    assert np.abs(read.astype(int) - smooth[:, ::-1]).max() < 8
    assert {path.name for path in tmp_path.iterdir()} == {"image.jpg", "image.png", "mask.png"}


def test_writing_refuses_wrong_names_and_values(tmp_path):
    with pytest.raises(ImageError, match=r"\.png"):
        write_mask(tmp_path / "mask.jpg", lesion())
    with pytest.raises(ImageError, match=r"\.png or \.jpg"):
        write_image(tmp_path / "image.bmp", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ShapeError):
        write_mask(tmp_path / "mask.png", BLACK_WHITE)
    with pytest.raises(ShapeError):
        write_image(tmp_path / "image.png", lesion())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((4, 4, 3), 200.0), r"\[0, 255\]"),
        (np.full((4, 4, 3), 0.5), r"\[0, 1\]"),
        (np.full((4, 4, 3), -1.5), "normalis"),
        (np.full((4, 4, 3), np.nan), "finite"),
        (np.zeros((4, 4), np.uint8), "gray"),
        (np.zeros((3, 4, 4), np.uint8), "channels last"),
        (np.zeros((4, 4, 4), np.uint8), "fourth"),
        (np.zeros((1, 4, 4, 3), np.uint8), "batch"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.uint16), "257"),
        (np.zeros((4, 4, 3), bool), "uint8"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_wrong_images_are_refused_by_name(image, words):
    with pytest.raises(ShapeError, match=words) as caught:
        check_image(image)
    assert caught.value.expected == "(H, W, 3) uint8 RGB"


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full((4, 4), 255, np.uint8), "mask > 127"),
        (np.ones((4, 4), np.uint8), r"astype\(bool\)"),
        (np.full((4, 4), 0.3), "threshold"),
        (np.ones((4, 4, 1), bool), "H, W"),
        (np.ones((0, 4), bool), "H, W"),
        (None, "NoneType"),
    ],
)
def test_wrong_masks_are_refused_by_name(mask, words):
    with pytest.raises(ShapeError, match=words):
        check_mask(mask)


def test_mask_and_image_must_agree():
    image = np.zeros((4, 6, 3), np.uint8)
    check_image(image)
    check_mask(np.zeros((4, 6), bool), like=image)
    with pytest.raises(ShapeError, match="agree") as caught:
        check_mask(np.zeros((6, 4), bool), like=image)
    assert (caught.value.expected, caught.value.actual) == ((4, 6), (6, 4))


def test_predicted_mask_is_cut_at_128_whatever_it_looks_like(tmp_path):
    gray = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    gray[0, :] = gray[-1, :] = 255
    path = tmp_path / "predicted.png"
    Image.fromarray(gray).save(path)
    with pytest.raises(ImageError):
        read_mask(path)
    assert np.array_equal(read_mask(path, predicted=True), gray > 128)
