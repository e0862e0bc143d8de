"""Several images of one patient in a request."""

import math

import numpy as np
import pytest

pytest.importorskip("fastapi")

from rest_fakes import lesion_pixels, predict, service
from test_patients import by_hand

from cascade.imaging import encode_image
from cascade.lesion.patient import FEATURES, PatientContext
from cascade.serving.rest.schemas import PredictionAnswer


def mole(number):
    """The drawn lesion in slightly other light; number 4 is much darker."""
    step = -45.0 if number == 4 else 3.0 * number
    return encode_image(np.clip(lesion_pixels() + step, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def client():
    with service() as ready:
        yield ready


def asked(client, *files, **fields):
    response = predict(client, *files, data={"patient": "true", **fields})
    assert response.status_code == 200, response.text
    PredictionAnswer.model_validate(response.json())
    return response.json()["results"]


def test_lesions_of_a_request_are_compared(client):
    results = asked(client, *map(mole, range(5)))
    rows = [[result["measurements"][name] for name in FEATURES] for result in results]
    scores = [result["patient"]["ugly_duckling_score"] for result in results]
    assert scores == pytest.approx(by_hand(rows), rel=1e-6)
    assert scores[4] == max(scores)
    chances = [result["probabilities"]["malignant"] for result in results]
    places = [result["patient"]["rank"] for result in results]
    assert places == [1 + sum(other > chance for other in chances) for chance in chances]
    assert {result["patient"]["lesions"] for result in results} == {5}


def test_without_the_option_nothing_is_compared(client):
    results = predict(client, *map(mole, range(4))).json()["results"]
    assert [result["patient"] for result in results] == [None] * 4
    plain = [{**result, "patient": None} for result in asked(client, *map(mole, range(4)))]
    assert plain == results, "all else is the same"


def test_below_four_lesions_the_score_is_null(client):
    results = asked(client, *map(mole, range(3)))
    assert [result["patient"]["ugly_duckling_score"] for result in results] == [None] * 3
    assert sorted(result["patient"]["rank"] for result in results) == [1, 2, 3]


def test_a_broken_image_is_an_error_among_the_others_and_counts_for_nothing(client):
    results = asked(client, mole(0), b"no image", *map(mole, (1, 2)))
    assert [result["status"] for result in results] == ["ok", "error", "ok", "ok"]
    assert {result["patient"]["lesions"] for result in results if "patient" in result} == {3}
    assert results[0]["patient"]["ugly_duckling_score"] is None
    more = asked(client, mole(0), b"no image", *map(mole, (1, 2, 4)))
    assert math.isfinite(more[0]["patient"]["ugly_duckling_score"])


def test_a_file_that_is_sent_twice_counts_once(client):
    results = asked(client, *map(mole, (0, 1, 2, 2)))
    assert {result["patient"]["lesions"] for result in results} == {3}
    assert results[2]["patient"] == results[3]["patient"]
    assert results[0]["patient"]["ugly_duckling_score"] is None


def test_one_image_is_the_first_of_one(client):
    (result,) = asked(client, mole(0))
    assert result["patient"] == {"rank": 1, "lesions": 1, "ugly_duckling_score": None}


@pytest.mark.parametrize("value", ["maybe", "2", "P7"])
def test_another_value_is_refused(client, value):
    response = predict(client, mole(0), data={"patient": value})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "patient"


def test_the_document_describes_it(client):
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    about = schemas["ImageResult"]["properties"]["patient"]
    assert about["examples"] == [{"rank": 1, "lesions": 6, "ugly_duckling_score": 2.7}]
    assert set(schemas[PatientContext.__name__]["properties"]) == set(about["examples"][0])
    options = document["paths"]["/v1/predict"]["post"]["parameters"]
    (option,) = [item for item in options if item["name"] == "patient"]
    assert option["schema"]["type"] == "boolean"
