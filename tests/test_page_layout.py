"""The page's logic, run by Streamlit's own test frame without a server or a browser."""

import re

import pytest
from page_fakes import EVERYTHING_POSSIBLE, blue_image, encoded, page_model

from cascade.errors import ModelFileError
from cascade.reliability import Safeguards
from cascade.serving.page.examples import EXAMPLES, example_file
from cascade.serving.page.findings import Settings
from cascade.serving.page.layout import _write_report
from cascade.serving.page.report import Circumstances
from cascade.serving.page.server import SCRIPT
from cascade.serving.page.settings import PageSettings

pytest.importorskip("streamlit")
EVIL = "<img src=x onerror=alert(1)>.jpg"


@pytest.fixture
def model():
    return page_model()


@pytest.fixture
def settings():
    return PageSettings()


@pytest.fixture
def page(monkeypatch, model, settings):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setattr("cascade.serving.page.layout.load_model", lambda *_: model)
    monkeypatch.setattr("cascade.serving.page.layout.current_settings", lambda: settings)
    return AppTest.from_file(str(SCRIPT), default_timeout=60).run()


def words(page):
    """All HTML of the page as text without tags."""
    assert not page.exception
    return " ".join(re.sub(r"<[^>]+>", " ", html(page)).split())


def html(page):
    bodies = [element.proto.body for element in page.html]
    return "\n".join(body for body in bodies if not body.startswith("<style>"))


def upload(page, *files):
    given = [(name, data, "image/png") for name, data in files]
    return page.file_uploader[0].set_value(given).run()


def alternative_texts(page):
    return [image.alt for element in page.image for image in element.proto.imgs]


def button(page, label):
    return next(item for item in page.button if item.label == label)


def test_the_start_page_has_a_disclaimer_an_upload_and_examples(page):
    assert [title.value for title in page.title] == ["Skin lesion analysis"]
    assert "not a medical device" in words(page)
    assert page.file_uploader[0].accept_multiple_files
    assert [item.label for item in page.button] == [example.title for example in EXAMPLES]
    assert [header.value for header in page.header] == ["Images"]


def test_a_image_is_examined_and_shown(page, lesion):
    upload(page, ("mole.png", encoded(lesion.image)))
    text = words(page)
    assert "mole.png" in text
    assert "Probability of malignant" in text
    assert "Diameter" in text
    assert len(alternative_texts(page)) == 4
    assert all(len(text) > 20 for text in alternative_texts(page))
    bodies = html(page)
    assert bodies.index("cs-disclaimer") < bodies.index("cs-verdict")
    assert [item.label for item in page.get("download_button")] == ["Download a report"]


def test_a_broken_file_among_several_has_its_own_box(page, lesion):
    data, other = encoded(lesion.image), encoded(blue_image())
    upload(page, ("first.png", data), ("broken.png", data[:100]), ("last.png", other), (EVIL, b""))
    shown = html(page)
    assert shown.count("cs-problem") == 2
    assert "<img" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;.jpg" in shown
    assert not [item for item in page.markdown if "onerror" in item.value]
    assert shown.count('class="cs-verdict') == 2
    text = words(page)
    assert text.index("first.png") < text.index("broken.png") < text.index("last.png")
    assert "This image cannot be used" in text
    assert "Cannot judge this image" in text
    assert text.count("Probability of malignant") == 1
    labels = [item.label for item in page.get("download_button")]
    assert labels == ["Download one report on all images", *["Download a report"] * 2]


def test_uploads_win_over_an_example(page, lesion):
    button(page, EXAMPLES[0].title).click().run()
    assert EXAMPLES[0].name in words(page)
    assert [header.value for header in page.header] == ["Images", "Results"]
    upload(page, ("mole.png", encoded(lesion.image)))
    assert "mole.png" in words(page)
    assert EXAMPLES[0].name not in words(page)


def test_all_images_can_be_removed(page, lesion):
    data = encoded(lesion.image)
    upload(page, ("mole.png", data), ("b.png", data))
    assert len(page.session_state["results"]) == 2
    upload(page, ("mole.png", data))
    assert [key[0] for key in page.session_state["results"]] == ["mole.png"], "b is forgotten"
    button(page, "Remove all images").click().run()
    assert "mole.png" not in words(page)
    assert page.session_state["results"] == {}
    assert [header.value for header in page.header] == ["Images"]


def test_another_operating_point_moves_the_cutoff_without_another_look(page, model, lesion):
    upload(page, ("mole.png", encoded(lesion.image)))
    before, looked = words(page), len(model.cascade.segmenter.batches)
    choice = page.selectbox[0]
    assert choice.label == "Operating point"
    assert choice.options == [
        "Sensitivity 90 %, cutoff 50.0 %",
        "Sensitivity 95 %, cutoff 25.0 %",
    ]
    choice.select_index(1).run()
    assert "Cutoff 50.0 %" in before
    assert "Cutoff 25.0 %" in words(page)
    assert len(model.cascade.segmenter.batches) == looked


def test_views_and_scale_look_again(page, model, lesion):
    upload(page, ("mole.png", encoded(lesion.image)))
    page.run()
    assert model.cascade.segmenter.batches == [1], "known already"
    page.radio[0].set_value("8 views").run()
    assert len(model.cascade.segmenter.batches) == 1 + 8
    assert " mm " not in words(page)
    page.number_input[0].set_value(10.0).run()
    assert " mm " in words(page)


@pytest.mark.parametrize(
    "model", [page_model(safeguards=Safeguards(conformal=EVERYTHING_POSSIBLE))]
)
def test_a_model_that_does_not_know_says_so(page, lesion):
    upload(page, ("mole.png", encoded(lesion.image)))
    assert "not certain" in words(page)
    assert "the cascade abstains" in words(page)


@pytest.mark.parametrize("settings", [PageSettings(max_images=2)])
def test_too_many_images_are_cut_with_a_word(page, lesion):
    data = encoded(lesion.image)
    upload(page, *((f"{number}.png", data) for number in range(4)))
    assert "Only the first 2 of 4 images are analysed" in words(page)
    assert html(page).count('class="cs-verdict') == 2


def test_a_model_that_cannot_be_read_is_said_to_be_unusable(monkeypatch, page, lesion):
    def broken(*_):
        raise ModelFileError("m.safetensors: <b>damaged</b>")

    monkeypatch.setattr("cascade.serving.page.layout.load_model", broken)
    upload(page, ("mole.png", encoded(lesion.image)))
    assert "This model cannot be used" in words(page)
    assert "&lt;b&gt;damaged" in html(page)
    assert "cs-verdict" not in html(page)


def test_one_model_is_named_and_several_can_be_chosen(monkeypatch, page, tmp_path):
    assert [item.label for item in page.selectbox] == ["Operating point"]
    assert "Tiny (0123456789ab)" in words(page)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cascade.json").write_text("{}")
    asked = []
    monkeypatch.setattr(
        "cascade.serving.page.layout.load_model", lambda _, name: asked.append(name) or page_model()
    )
    monkeypatch.setattr(
        "cascade.serving.page.layout.current_settings", lambda: PageSettings(models=tmp_path)
    )
    page.run()
    page.selectbox[0].set_value("b").run()
    assert asked[-1] == "b"


def test_the_report_of_a_button_is_the_one_of_its_image(page, model, lesion):
    upload(page, ("mole.png", encoded(lesion.image)))
    (result,) = page.session_state["results"].values()
    circumstances = Circumstances(model.title, model.points[0], Settings())
    written = _write_report((result,), circumstances).decode()
    assert '<h2 id="image-1">mole.png</h2>' in written


def test_examples_are_small_drawn_jpegs_that_never_change():
    for example in EXAMPLES:
        data = example_file(example.name)
        assert data.startswith(b"\xff\xd8\xff")
        assert len(data) < 200_000
        assert len(example.alternative_text) > 10
    example_file.cache_clear()
    assert example_file(EXAMPLES[0].name) == example_file(EXAMPLES[0].name)
