"""The report that the page offers: one file, in which nothing runs and nothing is loaded."""

import base64
import io
import itertools
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from page_fakes import blue_image, encoded, page_cascade
from PIL import Image

from cascade.evaluation.html import DISCLAIMER
from cascade.serving.page.findings import Settings, examine
from cascade.serving.page.html import overview, read_template
from cascade.serving.page.report import Circumstances, report_html
from cascade.serving.page.words import OperatingPoint

EVIL = "<img src=x onerror=alert(1)>.jpg"
CIRCUMSTANCES = Circumstances("Tiny (0123)", OperatingPoint(0.25, 0.95), Settings("flips", 12.5))
MOMENT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Elements(HTMLParser):
    """Start tags with their attributes, headings, and whether all tags close."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text, self.headings = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings.append((int(self.open[-1][1]), data))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def results(lesion):
    cascade = page_cascade()
    return [
        examine(cascade, "mole.png", encoded(lesion.image), CIRCUMSTANCES.settings),
        examine(cascade, EVIL, encoded(blue_image()), CIRCUMSTANCES.settings),
        examine(cascade, f"broken {EVIL}", b"hello", CIRCUMSTANCES.settings),
    ]


@pytest.fixture
def page(results):
    return report_html(results, CIRCUMSTANCES, moment=MOMENT)


def test_everything_is_in_the_one_file(page):
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.tags:
        assert tag not in ("script", "link", "iframe", "object", "a", "form", "input")
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/")
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "url(" not in page
    policies = [meta["content"] for meta in elements.all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert EVIL in elements.text
    assert "<img src=x" not in page
    levels = [level for level, _ in elements.headings]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_all_images_can_be_decoded_and_have_words(page):
    images = Elements(page).all("img")
    assert len(images) == 4 + 3
    for image in images:
        assert len(image["alt"]) > 20
        kind, _, data = image["src"].partition(";base64,")
        opened = Image.open(io.BytesIO(base64.b64decode(data)))
        opened.load()
        assert kind == f"data:image/{opened.format.lower()}"


def test_the_disclaimer_stands_at_the_top_and_at_the_end(page):
    text = Elements(page).text
    assert text.count(DISCLAIMER) == 2
    assert text.count("does not rule out cancer. If a lesion worries you") == 2
    assert text.index(DISCLAIMER) < text.index("mole.png")
    assert text.rindex(DISCLAIMER) > text.rindex(EVIL)


def test_the_circumstances_are_told(page):
    text = " ".join(Elements(page).text.split())
    for words in (
        "2026-01-02 03:04 UTC", "Tiny (0123)", "25.0 %", "95 %", "4, their mean",
        "12.5 pixels per millimetre",
    ):  # fmt: skip
        assert words in text, words


def test_an_out_of_distribution_image_shows_no_probability_anywhere(results):
    page = report_html(results[1:2], CIRCUMSTANCES, moment=MOMENT)
    text = Elements(page).text
    assert "Cannot judge this image" in text
    assert "Probability of malignant" not in text
    assert "Report on one image" in text


def test_the_bar_says_in_words_what_it_draws(results):
    page = report_html(results[:1], CIRCUMSTANCES, moment=MOMENT)
    bars = [tag for tag in Elements(page).all("div") if tag.get("role") == "img"]
    assert len(bars) == 1
    chance = f"{100 * results[0].answer.probability:.1f} %"
    assert f"Probability of malignant: {chance}" in bars[0]["aria-label"]
    assert "at or above the cutoff" in bars[0]["aria-label"]
    assert f"width:{100 * results[0].answer.probability:.2f}".rstrip("0") in page.replace(" ", "")
    assert "left:25.0%" in page


def test_the_overview_has_a_line_for_each_image(results):
    lines = overview(results, CIRCUMSTANCES.point)
    assert [line.symbol for line in lines] == ["▲", "?", "✕"]
    assert [line.probability for line in lines][1:] == ["–", "–"]
    assert lines[0].probability.endswith(" %")
    assert lines[2].remark.startswith("The file is not an image")


def palette(theme):
    text = read_template("parts.css")
    plain = dict(re.findall(r"--cs-([\w-]+): (#[0-9a-f]{6});", text))
    pairs = re.findall(r"--cs-([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", text)
    assert plain == {name: light for name, light, _ in pairs}, "one palette for old browsers too"
    return {name: light if theme == "light" else dark for name, light, dark in pairs}


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(theme):
    colours = palette(theme)
    assert contrast(colours["warning"], colours["warning-paper"]) >= 7
    assert contrast(colours["warning-line"], colours["warning-paper"]) >= 3
    for paper in ("paper", "panel", "above-paper", "below-paper", "unjudged-paper"):
        check_paper(colours, paper)


def check_paper(colours, paper):
    assert contrast(colours["ink"], colours[paper]) >= 7
    assert contrast(colours["quiet"], colours[paper]) >= 4.5
    side = colours[paper.removesuffix("-paper")] if "-" in paper else colours["ink"]
    assert contrast(side, colours[paper]) >= 4.5
