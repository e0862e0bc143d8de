"""Age, sex and site in the service and on the page."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from page_fakes import encoded, page_cascade, page_model
from rest_fakes import fake_model, lesion_pixels, lesion_png, service
from test_metadata import FUSION

from cascade.reliability import Metadata, Safeguards
from cascade.serving.page.findings import Settings, examine
from cascade.serving.page.report import Circumstances, report_html
from cascade.serving.page.words import OperatingPoint, verdict

FUSED = Safeguards(metadata=FUSION)


@pytest.fixture(scope="module")
def client():
    with service(model=fake_model(safeguards=FUSED)) as found:
        yield found


def asked(client, **options):
    response = client.post(
        "/v1/predict", params=options, content=lesion_png(), headers={"Content-Type": "image/png"}
    )
    return response.status_code, response.json()


def test_a_request_with_metadata_says_what_was_used(client):
    _, plain = asked(client)
    status, fused = asked(client, age="70", sex="m", site="back")
    assert status == 200
    (alone,), (found,) = plain["results"], fused["results"]
    assert alone["metadata_used"] == []
    assert found["metadata_used"] == ["age 70", "sex male", "site posterior torso"]
    assert found["image_probability"] == alone["probabilities"]["malignant"]
    assert found["probabilities"]["malignant"] == pytest.approx(
        FUSION.probability(alone["image_probability"], Metadata(70, "male", "back"))
    )
    assert "age 70, sex male, site posterior torso was used" in found["message"]
    chance = f"{alone['image_probability']:.3f}"
    assert f"from the image alone the probability of malignant is {chance}" in found["message"]


def test_blank_options_are_unknown(client):
    assert (
        asked(client, age="", sex="unknown", site="NA")[1]["results"] == asked(client)[1]["results"]
    )


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"age": "-3"}, "age", "age is '-3'; give years from 0 to 120"),
        ({"age": "abc"}, "age", "age is 'abc'"),
        ({"sex": "x"}, "sex", "choose from female, male"),
        ({"site": "bakc"}, "site", "did you mean back"),
        ({"sites": "back"}, "sites", "did you mean site"),
    ],
)
def test_a_wrong_option_is_named(client, options, field, said):
    status, problem = asked(client, **options)
    assert status == 422
    assert problem["errors"][0]["field"] == field
    assert said in problem["errors"][0]["message"]


def test_a_model_without_fusion_refuses_metadata():
    with service() as plain:
        status, problem = asked(plain, age="50", site="back")
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == ["age", "site"]
    assert "no metadata fusion" in problem["detail"]


def test_the_page_says_what_was_used():
    cascade = page_cascade(safeguards=FUSED)
    data = encoded(lesion_pixels())
    plain = examine(cascade, "a.png", data, Settings())
    found = examine(cascade, "a.png", data, Settings(metadata=Metadata(age=70)))
    assert plain.answer.metadata == ""
    chance = plain.answer.probability
    assert found.answer.probability == pytest.approx(FUSION.probability(chance, Metadata(age=70)))
    said = " ".join(verdict(found.answer, OperatingPoint(0.5)).sentences)
    assert "Beside the image, age 70 was used" in said
    assert f"is {chance:.3f}." in said


def test_the_report_says_what_was_known():
    model = page_model(safeguards=FUSED)
    settings = Settings(metadata=Metadata(55, None, "back"))
    circumstances = Circumstances(model.title, model.points[0], settings)
    finding = model.examine("a.png", encoded(lesion_pixels()), settings)
    page = report_html([finding], circumstances, moment=datetime(2026, 11, 30, tzinfo=UTC))
    assert "age 55, site posterior torso" in page
    facts = Circumstances(model.title, model.points[0], Settings()).facts(datetime.now(UTC))
    assert facts["Known beside the images"] == "nothing"


@pytest.mark.parametrize("safeguards", [FUSED, Safeguards()], ids=["fusion", "plain"])
def test_the_page_asks_for_metadata_where_the_model_can_use_it(monkeypatch, safeguards):
    testing = pytest.importorskip("streamlit.testing.v1")
    from cascade.serving.page.server import SCRIPT
    from cascade.serving.page.settings import PageSettings

    model = page_model(safeguards=safeguards)
    monkeypatch.setattr("cascade.serving.page.layout.load_model", lambda *_: model)
    monkeypatch.setattr("cascade.serving.page.layout.current_settings", PageSettings)
    page = testing.AppTest.from_file(str(SCRIPT), default_timeout=60).run()
    labels = {item.label for item in (*page.number_input, *page.selectbox)}
    assert ({"Age in years", "Sex", "Site of the lesion"} <= labels) == (safeguards is FUSED)
    if safeguards is not FUSED:
        return
    next(item for item in page.number_input if item.label == "Age in years").set_value(70.0)
    next(item for item in page.selectbox if item.label == "Sex").set_value("male")
    page = page.run()
    uploaded = [("a.png", encoded(lesion_pixels()), "image/png")]
    page = page.file_uploader[0].set_value(uploaded).run()
    assert not page.exception
    html = " ".join(element.proto.body for element in page.html)
    assert "age 70, sex male was used" in html
