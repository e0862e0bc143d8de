"""Several images on the page as the lesions of one patient."""

import math
import re

import numpy as np
import pytest
from page_fakes import blue_image, encoded, page_cascade
from test_page_layout import html, model, page, settings, upload, words  # noqa: F401 - fixtures
from test_patients import by_hand

from cascade.serving.page.findings import Problem, Settings, examine
from cascade.serving.page.layout import _write_report
from cascade.serving.page.patients import LIMITS, compare
from cascade.serving.page.report import Circumstances
from cascade.serving.page.words import OperatingPoint

EVIL = "<img src=x onerror=alert(1)>.png"


@pytest.fixture
def moles(lesion):
    """Files of the drawn lesion in slightly other light, the last one much darker."""
    steps = (0.0, 3.0, 6.0, 9.0, -45.0)
    return [encoded(np.clip(lesion.image + step, 0, 255).astype(np.uint8)) for step in steps]


def examined(files, names=None):
    names = names or [f"{number}.png" for number in range(len(files))]
    cascade = page_cascade()
    return [examine(cascade, *pair, Settings()) for pair in zip(names, files, strict=True)]


def marked(comparison):
    return [line.name for line in comparison.lines if line.odd]


def test_the_odd_lesion_is_marked_and_named(moles):
    results = examined(moles)
    found = compare(results)
    assert marked(found) == ["4.png"]
    expected = by_hand([list(item.numbers[:-1]) for item in results])
    assert [line.score for line in found.lines] == [f"{score:.1f}" for score in expected]
    chances = [item.answer.probability for item in results]
    places = [1 + sum(other > chance for other in chances) for chance in chances]
    assert [line.place for line in found.lines] == [f"{place} of 5" for place in places]
    assert found.sentences[0].startswith("The lesion on 4.png looks least like the others")
    assert "no diagnosis" in found.sentences[1] == LIMITS


def test_among_equal_lesions_none_is_marked(moles):
    found = compare(examined(moles[:4]))
    assert marked(found) == []
    assert found.sentences[0].startswith("No lesion stands out: the highest score is")


@pytest.mark.parametrize("broken", [encoded(blue_image()), b"no image"])
def test_below_four_lesions_nothing_is_compared(moles, broken):
    """An image that cannot be judged and a file that cannot be read are no lesions."""
    found = compare(examined([*moles[:2], broken, moles[4]]))
    assert marked(found) == []
    assert [line.score for line in found.lines] == ["–"] * 4
    assert found.lines[2].place == "–"
    assert found.lines[0].place.endswith("of 3")
    assert "takes 4 lesions" in found.sentences[0]


def test_a_file_that_is_uploaded_twice_counts_once(moles):
    found = compare(examined([*moles[:2], moles[4], moles[4]]))
    assert found.lines[0].place.endswith("of 3")
    assert found.lines[2].place == found.lines[3].place


def test_images_without_a_judgement_have_no_numbers():
    (found,) = examined([encoded(blue_image())])
    assert found.answer.probability is None
    assert all(math.isnan(number) for number in found.numbers)
    assert compare([found, Problem("x", "y")]).lines[0].place == "–"


def test_the_page_compares_on_request_only(page, moles):  # noqa: F811
    assert not page.checkbox, "one image is not compared"
    upload(page, ("one.png", moles[0]))
    assert not page.checkbox
    upload(page, *((f"{number}.png", data) for number, data in enumerate(moles)))
    assert "Least like the others" not in words(page)
    page.checkbox(key="one_patient").check().run()
    text = words(page)
    assert "The lesion on 4.png looks least like the others" in text
    assert "most odd lesions are benign" in text
    assert re.search(r"4\.png \d of 5 [\d.]+ ◆\S* Least like the others", text)
    page.checkbox(key="one_patient").uncheck().run()
    assert "Least like the others" not in words(page)


def test_a_narrow_screen_hides_no_column_of_the_comparison(page, moles):  # noqa: F811
    upload(page, *((f"{number}.png", data) for number, data in enumerate(moles)))
    page.checkbox(key="one_patient").check().run()
    (table,) = re.findall(r"<caption>The lesions of the patient.*?</table>", html(page), re.DOTALL)
    assert "Least like the others" in table
    assert "cs-remark" not in table


def test_a_name_in_the_comparison_is_never_markup(page, moles):  # noqa: F811
    names = ["a.png", "b.png", "c.png", "d.png", EVIL]
    upload(page, *zip(names, moles, strict=True))
    page.checkbox(key="one_patient").check().run()
    assert "<img" not in html(page)
    assert "The lesion on &lt;img src=x" in html(page)


def test_the_report_holds_the_comparison_if_it_was_asked_for(moles):
    about = Circumstances("Tiny", OperatingPoint(0.5), Settings())
    results = tuple(examined(moles))
    plain = _write_report(results, about).decode()
    assert "Least like the others" not in plain
    assert "Least like the others" in _write_report(results, about, one_patient=True).decode()
