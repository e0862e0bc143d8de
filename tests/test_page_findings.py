"""One image through the page's cascade: what is shown of it, and what is kept."""

import io
import sys

import cv2
import numpy as np
import pytest
from conftest import FakeClassifier, FakeSegmenter
from page_fakes import EVERYTHING_POSSIBLE, blue_image, encoded, page_cascade
from PIL import Image

from cascade.errors import ImageError
from cascade.lesion.masking import MaskPolicy
from cascade.pipeline import Cascade
from cascade.reliability import MaskQualityLimits, Safeguards
from cascade.serving.page.findings import (
    Finding,
    Problem,
    Settings,
    examine,
    plain_message,
)
from cascade.serving.page.words import sentence
from cascade.serving.shared.uploads import LONGEST_SIDE, NO_MEMORY

PLAIN = Settings()


def opened(image):
    return Image.open(io.BytesIO(image.data))


def titles(finding):
    return [image.title for image in finding.images]


def test_a_lesion_is_shown_with_its_mask_crop_and_heat_map(lesion):
    finding = examine(page_cascade(), "mole.png", encoded(lesion.image), PLAIN)
    assert isinstance(finding, Finding)
    assert titles(finding) == ["Image", "Lesion mask", "What the classifier sees", "Heat map"]
    assert 0 < finding.answer.probability < 1
    assert [row.name for row in finding.rows][-2:] == ["Sharpness", "Clipped pixels"]
    assert len(finding.rows) == 7
    assert finding.name == "mole.png"
    shown = np.asarray(opened(finding.images[2]))
    np.testing.assert_array_equal(shown, page_cascade()(lesion.image)[0].crop)
    assert finding == examine(page_cascade(), "mole.png", encoded(lesion.image), PLAIN)


def test_every_image_has_words_for_who_cannot_see_it(lesion):
    for image in examine(page_cascade(), "a.png", encoded(lesion.image), PLAIN).images:
        assert len(image.alternative_text) > 20
        assert image.caption
        assert opened(image).format == image.mime_type.removeprefix("image/").upper()


def test_large_images_are_shown_small_but_measured_large():
    image = np.full((700, 1200, 3), (220, 170, 150), np.uint8)
    image[200:500, 300:700] = (90, 40, 30)
    finding = examine(page_cascade(), "a.png", encoded(image), PLAIN)
    assert max(opened(finding.images[0]).size) == LONGEST_SIDE
    assert max(opened(finding.images[3]).size) == LONGEST_SIDE
    values = {row.name: row.value for row in finding.rows}
    assert 490 < float(values["Diameter in pixels"].removesuffix(" px")) < 510
    assert finding.images[0].caption == "1200 × 700 pixels."


def test_the_scale_gives_millimetres(lesion):
    finding = examine(
        page_cascade(), "a.png", encoded(lesion.image), Settings(pixels_per_millimetre=10)
    )
    assert any(row.value.endswith(" mm") for row in finding.rows)


def test_an_out_of_distribution_image_has_no_probability_and_no_heat_map():
    finding = examine(page_cascade(), "sky.png", encoded(blue_image()), PLAIN)
    assert finding.answer.probability is None
    assert "Heat map" not in titles(finding)
    assert len(finding.heat_notes) == 1


def test_an_image_without_a_lesion_is_not_judged_and_has_no_mask():
    skin = np.random.default_rng(0).normal((220, 180, 160), 4, (80, 80, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(skin).resize((20, 20)).resize((80, 80)))
    smooth = smooth + np.linspace(0, 20, 80).astype(np.uint8)[:, None, None]
    finding = examine(page_cascade(), "skin.png", encoded(smooth), PLAIN)
    assert finding.answer.reasons == ("No lesion was found.",)
    assert titles(finding) == ["Image", "What the classifier sees"]
    assert "whole image" in finding.images[1].caption
    assert [row.name for row in finding.rows] == ["Sharpness", "Clipped pixels"]


def test_low_mask_quality_is_said(lesion):
    gate = MaskQualityLimits(lowest_expected_iou=1.0)
    cascade = page_cascade(safeguards=Safeguards(mask_quality_limits=gate))
    finding = examine(cascade, "a.png", encoded(lesion.image), PLAIN)
    assert any("ow mask quality" in warning for warning in finding.warnings)
    assert "uality is low" in finding.images[1].caption
    assert any("mask quality is low" in note for note in finding.notes)
    assert any("ask quality is low" in note for note in finding.heat_notes)


def test_the_set_of_possible_classes_is_kept(lesion):
    cascade = page_cascade(safeguards=Safeguards(conformal=EVERYTHING_POSSIBLE), coverage=0.8)
    answer = examine(cascade, "a.png", encoded(lesion.image), PLAIN).answer
    assert answer.possible == ("benign", "malignant")
    assert answer.coverage == 0.8


def test_a_stage_that_cannot_be_explained_costs_the_heat_map_only(lesion):
    cascade = Cascade(FakeSegmenter(), FakeClassifier())
    finding = examine(cascade, "a.png", encoded(lesion.image), PLAIN)
    assert titles(finding) == ["Image", "Lesion mask", "What the classifier sees"]
    assert finding.heat_notes[0].startswith("Not available: ")
    assert finding.answer.probability is not None


def test_a_finding_holds_no_pixels_beyond_its_images(lesion):
    finding = examine(page_cascade(), "a.png", encoded(lesion.image), PLAIN)
    for value in vars(finding).values():
        assert not isinstance(value, np.ndarray)
        assert sys.getsizeof(value) < 1000
    assert sum(len(image.data) for image in finding.images) < 200_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The file is empty."),
        (b"hello", "The file is not an image of a known format; cascade reads JPEG, PNG"),
        (encoded(np.full((20, 20, 3), 90, np.uint8)), "The file is too small, 20 x 20 pixels"),
        (encoded(np.full((1100, 1000, 3), 90, np.uint8)), "The file is too large, 1000 x 1100"),
        (b"\xff" * 2_000_000, "The file has 2 MB, above the limit of 1. Reduce the "),
    ],
)
def test_a_file_that_cannot_be_used_is_a_problem_in_one_sentence(data, words):
    problem = examine(page_cascade(), "x.jpg", data, PLAIN)
    assert isinstance(problem, Problem)
    assert problem.message.startswith(words)
    assert problem.message.endswith(".")


def test_other_refusals_are_problems_too(lesion):
    cut = examine(page_cascade(), "a\n\x1b.jpg", encoded(lesion.image, ".jpg")[:800], PLAIN)
    assert cut.name == "a\\n\\x1b.jpg", "printable"
    assert cut.message.startswith("The file is a damaged JPEG")
    assert "allow_truncated" not in cut.message, "no advice for programs"
    strict = Cascade(FakeSegmenter(), FakeClassifier(policy=MaskPolicy(on_empty="raise")))
    gray = encoded(np.full((64, 64, 3), 230, np.uint8))
    assert "o lesion found" in examine(strict, "x.png", gray, PLAIN).message


def test_messages_keep_advice_for_people():
    error = ImageError("image: is too large. Reduce the image, or raise max_pixels")
    assert plain_message(error) == "The file is too large. Reduce the image."
    assert plain_message(ImageError("image: has the colour space CMYK; export it as RGB")) == (
        "The file has the colour space CMYK; export it as RGB."
    )


def no_array(*_, **__):
    raise MemoryError


def no_opencv_array(*_, **__):
    raise OpenCVError(cv2.Error.StsNoMem)


class OpenCVError(cv2.error):
    """As OpenCV raises it, with a code."""

    def __init__(self, code):
        super().__init__()
        self.code = code


@pytest.mark.parametrize("failing", [no_array, no_opencv_array])
@pytest.mark.parametrize("place", ["predict_upload", "draw_images"])
def test_without_memory_for_one_image_the_page_goes_on(monkeypatch, lesion, failing, place):
    monkeypatch.setattr(f"cascade.serving.page.findings.{place}", failing)
    problem = examine(page_cascade(), "x.jpg", encoded(lesion.image), PLAIN)
    assert problem == Problem("x.jpg", sentence(NO_MEMORY))


def test_other_errors_of_opencv_are_defects_and_not_hidden(monkeypatch, lesion):
    def defect(*_, **__):
        raise OpenCVError(cv2.Error.StsBadArg)

    monkeypatch.setattr("cascade.serving.page.findings.draw_images", defect)
    with pytest.raises(cv2.error):
        examine(page_cascade(), "x.jpg", encoded(lesion.image), PLAIN)
