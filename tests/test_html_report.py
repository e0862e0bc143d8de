"""The HTML report: self-contained, escaped, readable by machines that read aloud."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from cascade.errors import DataError
from cascade.evaluation.html import (
    DISCLAIMER,
    ReportFigure,
    ReportNumber,
    ReportSection,
    ReportTable,
    write_report,
)

PNG = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
JPEG = cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def sections():
    table = ReportTable(
        ["metric", "value"], [["AUC", 0.87219], ["n", 1500], ["F1", None]], "Scores"
    )
    figures = [ReportFigure(PNG, "A curve", "rises steeply"), ReportFigure(JPEG, "B", "a lesion")]
    return [
        ReportSection("First", "One.\n\nTwo.", [table]),
        ReportSection("Second", figures=figures),
        ReportSection("Third", "Text."),
    ]


def written(tmp_path, **changes):
    arguments = {"title": "Report", "summary": {"ROC AUC": 0.87219}, "sections": sections()}
    path = write_report(tmp_path / "report.html", **{**arguments, **changes})
    return path.read_text("utf-8")


def test_page_is_well_formed_and_says_its_language(tmp_path):
    page = Page(written(tmp_path))
    assert page.open == []
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1
    assert len(page.of("h2")) == 3


def test_page_loads_nothing_from_elsewhere(tmp_path):
    text = written(tmp_path)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:image/") for image in page.of("img"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_figures_are_embedded_whole_with_words_for_those_who_do_not_see_them(tmp_path):
    images = Page(written(tmp_path)).of("img")
    kinds, contents = zip(*[image["src"].split(";base64,") for image in images], strict=True)
    assert kinds == ("data:image/png", "data:image/jpeg")
    assert [base64.b64decode(content) for content in contents] == [PNG, JPEG]
    assert [image["alt"] for image in images] == ["rises steeply", "a lesion"]


def test_figure_is_read_from_a_path(tmp_path):
    source = tmp_path / "curve.png"
    source.write_bytes(PNG)
    text = written(
        tmp_path, sections=[ReportSection("S", figures=[ReportFigure(source, "c", "a")])]
    )
    assert base64.b64encode(PNG).decode() in text


@pytest.mark.parametrize("source", [b"<svg onload=alert(1)>", b"", "missing.png"])
def test_figure_that_is_no_picture_is_refused(tmp_path, source):
    figure = ReportFigure(source, "caption", "words")
    with pytest.raises(DataError):
        written(tmp_path, sections=[ReportSection("S", figures=[figure])])
    assert not (tmp_path / "report.html").exists()


def test_every_text_is_escaped(tmp_path):
    table = ReportTable([HOSTILE], [[HOSTILE]], HOSTILE)
    figure = ReportFigure(PNG, HOSTILE, HOSTILE)
    text = written(
        tmp_path,
        title=HOSTILE,
        summary={HOSTILE: HOSTILE},
        sections=[ReportSection(HOSTILE, HOSTILE, [table], [figure])] * 3,
    )
    page = Page(text)
    assert "<script>" not in text
    assert not page.of("script")
    assert len(page.of("img")) == 3
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert {image["alt"] for image in page.of("img")} == {HOSTILE}


def test_disclaimer_comes_first_and_last(tmp_path):
    text = written(tmp_path, summary={}, sections=[])
    body = text[text.index("<body>") :]
    assert body.count(DISCLAIMER) == 2
    assert body.index(DISCLAIMER) < body.index("<main>")
    assert "not for diagnosis" in DISCLAIMER


def test_numbers_are_readable_and_missing_ones_are_a_dash(tmp_path):
    text = written(tmp_path)
    assert '<td class="number">0.8722</td>' in text
    assert '<td class="number">1,500</td>' in text
    assert "<td>–</td>" in text
    assert "None" not in text


def test_interval_in_a_cell_stays_on_one_line(tmp_path):
    table = ReportTable(["group", "ROC AUC"], [["nevus", "0.857 (0.487–0.974)"]])
    text = written(tmp_path, sections=[ReportSection("S", tables=[table])])
    assert '<td>0.857 <span class="interval">(0.487–0.974)</span></td>' in text


def test_table_has_headers_for_rows_and_columns(tmp_path):
    scopes = [cell["scope"] for cell in Page(written(tmp_path)).of("th")]
    assert scopes == ["col", "col", "row", "row", "row"]


def test_contents_link_to_existing_sections(tmp_path):
    page = Page(written(tmp_path))
    targets = {link["href"] for link in page.of("a")}
    assert targets == {f"#{section['id']}" for section in page.of("section")}


def test_numbers_come_before_the_sections_and_provenance_after_them(tmp_path):
    digest = "0123456789abcdef" * 4
    text = written(
        tmp_path,
        summary={"ROC AUC": ReportNumber(0.87219, "95 %: 0.8 – 0.9")},
        provenance={"model_sha256": digest, "date": "2025-01-02"},
    )
    assert text.index("0.8722") < text.index("95 %: 0.8 – 0.9") < text.index("<h2")
    assert text.index(">Third<") < text.index(">Provenance</h2>") < text.index("2025-01-02")


def test_digest_is_short_on_the_screen_and_whole_on_demand_and_on_paper(tmp_path):
    digest = "0123456789abcdef" * 4
    text = written(tmp_path, provenance={"model_sha256": digest})
    details = re.search('<details class="on-screen">.*?</details>', text, re.DOTALL)[0]
    assert f"<summary><code>{digest[:12]}…</code></summary>" in details
    assert digest in details
    assert f'<code class="on-paper">{digest}</code>' in text


def test_image_beside_another_is_embedded_and_named(tmp_path):
    figure = ReportFigure(JPEG, "pair", "a lesion", PNG)
    images = Page(written(tmp_path, sections=[ReportSection("S", figures=[figure])])).of("img")
    assert [image["src"][:15] for image in images] == ["data:image/jpeg", "data:image/png;"]
    assert all(image["alt"] for image in images)


def test_row_of_another_length_is_refused(tmp_path):
    table = ReportTable(["a", "b"], [["1", "2"], ["3"]], "Scores")
    with pytest.raises(DataError, match="row 2"):
        written(tmp_path, sections=[ReportSection("S", tables=[table])])
