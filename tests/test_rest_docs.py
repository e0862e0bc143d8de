"""The OpenAPI document and the page that shows it without any network."""

import hashlib
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from rest_fakes import lesion_png, predict, service

import cascade
from cascade.serving.rest.openapi import EXAMPLE, FOLDER, PROBLEM_EXAMPLE
from cascade.serving.rest.schemas import ModelDescription, Options, PredictionAnswer, Problem

DOCS = Path(__file__).resolve().parents[1] / "docs" / "rest.md"
SWAGGER = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""Version 5.35.0 of the npm package swagger-ui-dist, unchanged."""


@pytest.fixture(scope="module")
def client():
    with service() as ready:
        yield ready


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def test_the_document_names_every_route_and_what_it_is_not_for(document):
    assert set(document["paths"]) == {"/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert document["info"]["version"] == cascade.__version__
    assert "Not a medical device" in document["info"]["description"]
    assert document["openapi"].startswith("3.1")


def test_every_reference_of_the_document_leads_somewhere(document):
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert names <= set(document["components"]["schemas"])
    assert {"PredictionAnswer", "ImageResult", "ImageFailure", "Problem", "Measurements"} <= names


def test_every_field_of_an_answer_is_in_the_document(client, document):
    schemas = document["components"]["schemas"]
    result = predict(client, lesion_png()).json()["results"][0]
    assert set(result) == set(schemas["ImageResult"]["properties"])
    assert set(client.get("/v1/model").json()) == set(schemas["ModelDescription"]["properties"])
    assert set(client.get("/nope").json()) <= set(schemas["Problem"]["properties"])
    PredictionAnswer.model_validate(predict(client, lesion_png(), b"x").json())
    ModelDescription.model_validate(client.get("/v1/model").json())
    Problem.model_validate(predict(client, b"x").json())
    answers = document["paths"]["/v1/predict"]["post"]["responses"]
    assert answers["200"]["content"]["application/json"]["example"] == EXAMPLE
    assert (
        PredictionAnswer.model_validate(EXAMPLE).model_dump(mode="json", by_alias=True) == EXAMPLE
    )
    Problem.model_validate(PROBLEM_EXAMPLE)


def test_options_are_documented_once_and_files_in_the_form(document):
    post = document["paths"]["/v1/predict"]["post"]
    assert {item["name"] for item in post["parameters"]} == set(Options.model_fields)
    bodies = post["requestBody"]["content"]
    form = bodies["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"images"}, "or the page would send each option twice"
    assert form["required"] == ["images"]
    assert "image/jpeg" in bodies


def test_refusals_are_problems_in_the_document(document):
    answers = document["paths"]["/v1/predict"]["post"]["responses"]
    refused = {status for status in answers if status >= "400"}
    assert refused == {"401", "403", "408", "413", "422", "429", "500", "501", "503", "504"}
    for status in refused:
        assert set(answers[status]["content"]) == {"application/problem+json"}
        assert answers[status]["description"]


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert set(links) == {
        "data:,", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js",
        "openapi.json",
    }  # fmt: skip
    policy = page.headers["content-security-policy"]
    assert "http" not in policy
    assert "script-src 'self';" in policy
    assert "'unsafe-eval'" not in policy


def test_what_the_page_loads_is_there(client):
    for path, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css"),
                       ("start.js", "text/javascript")):  # fmt: skip
        response = client.get(f"/docs/{path}")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind), "or nosniff would keep it out"


def test_the_root_leads_to_the_page(client):
    assert client.get("/", follow_redirects=False).headers["location"] == "docs"
    assert "swagger-ui" in client.get("/").text


@pytest.mark.parametrize(
    "path", ["/docs/../settings.py", "/docs/%2e%2e/settings.py", "/docs/LICENSE"]
)
def test_no_other_file_is_served(client, path):
    assert client.get(f"/docs/{path}").status_code == 404


def test_swagger_ui_is_shipped_unchanged_and_with_its_licences():
    for name, digest in SWAGGER.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    assert "Apache License" in (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "MIT" in (FOLDER / "swagger-ui-bundle.js.LICENSE.txt").read_text(encoding="utf-8")


def test_the_limits_in_the_text_are_the_defaults():
    from cascade.serving.rest.settings import ServiceSettings

    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| `--(\w+)` \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) >= 8
    for name, value in rows:
        assert getattr(ServiceSettings(), name) == float(value), name
