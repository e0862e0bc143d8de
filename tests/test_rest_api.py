"""The REST service's answers: what goes in and what comes out."""

import base64
import io
import logging
import re
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi")

from PIL import Image
from rest_fakes import (
    DIGEST,
    bomb_png,
    fake_model,
    lesion_pixels,
    lesion_png,
    only,
    predict,
    service,
    turned_jpeg,
    upload,
)
from starlette.testclient import TestClient

from cascade.errors import ConfigError, ImageError, MissingExtraError, ModelFileError
from cascade.explain import explain, overlay_heat
from cascade.imaging import ImageLimits, apply_orientation, encode_image
from cascade.lesion.masking import MaskPolicy
from cascade.reliability import ConformalScores, Safeguards
from cascade.serving.rest.api import create_app
from cascade.serving.rest.model import find_card, load_model
from cascade.serving.rest.settings import ServiceSettings


@pytest.fixture(scope="module")
def client():
    with service() as ready:
        yield ready


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


# --- one image ------------------------------------------------------------------------------------


def test_an_image_gets_the_prediction_that_the_library_gives(client):
    document = predict(client, lesion_png()).json()
    assert (document["model"]["digest"], document["model"]["runtime"]) == (DIGEST, "torch")
    assert "Not a medical device" in document["disclaimer"]
    (result,) = document["results"]
    (expected,) = fake_model().cascade([lesion_png()])
    assert result["label"] == expected.label == result["answer"] == "malignant"
    assert result["probabilities"] == pytest.approx(dict(expected.probabilities))
    assert tuple(result["box"][side] for side in ("top", "left", "bottom", "right")) == expected.box
    assert result["area_fraction"] == expected.area_fraction
    assert result["measurements"]["diameter_pixels"] == expected.measurements.diameter_pixels
    assert result["mask_quality"]["score"] == expected.mask_quality.score
    assert (result["height"], result["width"], result["orientation"]) == (96, 128, 1)
    assert result["warnings"] == list(expected.warnings)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "IMAGE/PNG; x=y"])
def test_the_bytes_of_one_image_are_a_body_too(client, kind):
    response = client.post("/v1/predict", content=lesion_png(), headers={"Content-Type": kind})
    raw, form = only(response), only(predict(client, lesion_png()))
    assert raw["probabilities"] == form["probabilities"]
    assert raw["name"] is None


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_an_image_of_another_format_is_predicted_as_its_png(client, kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    encoded = io.BytesIO()
    options = {} if kind == "JPEG2000" else {"quality": 100}
    Image.fromarray(lesion_pixels()).save(encoded, kind, **options)
    found, expected = only(predict(client, encoded.getvalue())), only(predict(client, lesion_png()))
    assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=0.05)
    assert found["label"] == expected["label"]
    assert found["warnings"] == expected["warnings"]


def test_options_may_stand_in_the_query_or_in_the_form(client):
    asked = {"tta": "flips", "operating_point": "0.95", "pixels_per_millimetre": "10"}
    query = only(predict(client, lesion_png(), params=asked))
    form = only(predict(client, lesion_png(), data=asked))
    assert query == form
    assert only(predict(client, lesion_png(), data={**asked, "include": ""})) == query
    assert query["mask_quality"]["flip_disagreement"] is not None, "several views were seen"
    assert query["operating_point"] == {"cutoff": 0.1, "sensitivity": 0.95}
    measured = query["measurements"]
    assert measured["diameter_millimetres"] == pytest.approx(measured["diameter_pixels"] / 10)


def test_the_settings_of_the_service_count_unless_a_request_says_otherwise():
    model = fake_model(cutoff=0.99)
    with service(ServiceSettings(tta="flips"), model=model) as client:
        strict = only(predict(client, lesion_png()))
        assert strict["mask_quality"]["flip_disagreement"] is not None
        plain = only(predict(client, lesion_png(), params={"tta": "none"}))
        assert plain["mask_quality"]["flip_disagreement"] is None
        assert strict["label"] == strict["answer"] == "benign"
        assert strict["operating_point"] == {"cutoff": 0.99, "sensitivity": None}
        assert "below the cutoff 0.990" in strict["message"]
        loose = only(predict(client, lesion_png(), params={"operating_point": 0.9}))
        assert loose["label"] == "malignant"
        assert loose["operating_point"] == {"cutoff": 0.2, "sensitivity": 0.9}


def test_boxes_are_given_in_displayed_and_in_stored_pixels(client):
    upright, turned = only(predict(client, turned_jpeg(1))), only(predict(client, turned_jpeg(6)))
    assert turned["orientation"] == 6
    assert (turned["height"], turned["width"]) == (128, 96), "as a viewer shows it"
    assert (upright["height"], upright["width"]) == (96, 128)
    assert turned["stored_box"] != turned["box"]
    for side, corner in upright["box"].items():
        assert turned["stored_box"][side] == pytest.approx(corner, abs=3), "as the file holds it"
    assert turned["stored_crop_box"] != turned["crop_box"]
    pictures = only(predict(client, turned_jpeg(6), params={"include": "overlay"}))["images"]
    shown = apply_orientation(lesion_pixels(), 6)
    overlay = decoded(pictures["overlay"])
    assert overlay.shape == shown.shape
    assert np.abs(overlay.astype(int) - shown).mean() < 20


def test_pictures_come_as_png_where_they_are_asked_for_and_overlays_are_reduced(client):
    large = lesion_png(shape=(1200, 1500))
    pictures = only(predict(client, large, params={"include": "mask,overlay"}))["images"]
    (expected,) = fake_model().cascade([large])
    assert (decoded(pictures["mask"]) == expected.mask * 255).all()
    assert decoded(pictures["overlay"]).shape == (819, 1024, 3)
    assert pictures["heat_map"] is None
    assert only(predict(client, lesion_png()))["images"]["mask"] is None, "not unasked"


def test_a_picture_alone_is_a_png(client):
    headers = {"Accept": "image/png"}
    response = predict(client, lesion_png(), params={"include": "overlay"}, headers=headers)
    assert response.headers["content-type"] == "image/png"
    assert np.asarray(Image.open(io.BytesIO(response.content))).shape == (96, 128, 3)
    for files, include in ([lesion_png()], "mask,overlay"), ([lesion_png()] * 2, "mask"):
        refused = predict(client, *files, params={"include": include}, headers=headers)
        assert refused.status_code == 422
        assert "send one image" in refused.json()["detail"]


# --- several images -------------------------------------------------------------------------------


def test_several_images_get_an_entry_each_and_one_bad_image_does_not_fail_the_others(client):
    response = predict(client, ("a.png", lesion_png(1)), ("c.png", b""), ("d.png", lesion_png(2)))
    assert response.status_code == 200
    results = response.json()["results"]
    assert [item["index"] for item in results] == [0, 1, 2]
    assert [item["name"] for item in results] == ["a.png", "c.png", "d.png"]
    assert [item["status"] for item in results] == ["ok", "error", "ok"]
    assert "empty" in results[1]["message"]
    assert results[0]["probabilities"] == only(predict(client, lesion_png(1)))["probabilities"]
    alone = predict(client, ("a.jpg", lesion_png()[:300]))
    assert alone.status_code == 422
    assert alone.headers["content-type"] == "application/problem+json"
    problem = alone.json()
    assert "cut off" in problem["detail"]
    assert problem["errors"][0]["field"] == "images"
    assert problem["request_id"] == alone.headers["x-request-id"]


# --- what cannot be judged (row 111) --------------------------------------------------------------


@pytest.mark.parametrize(("value", "kind"), [(0, "uniform"), (255, "uniform"), (None, "noise")])
def test_black_and_white_images_and_noise_are_not_judged(client, value, kind):
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    image = noise if value is None else np.full_like(noise, value)
    result = only(predict(client, encode_image(image)))
    assert result["answer"] == "cannot_judge"
    assert kind in result["message"]
    assert "not a dermoscopic lesion" in result["message"]


def test_an_out_of_distribution_image_is_not_judged(monkeypatch):
    from cascade.pipeline import Cascade

    model = fake_model()
    plain = Cascade.predict_iter

    def out_of_distribution(self, sources, **options):
        for prediction in plain(self, sources, **options):
            object.__setattr__(prediction, "out_of_distribution_score", float("inf"))
            yield prediction

    monkeypatch.setattr(Cascade, "predict_iter", out_of_distribution)
    with service(model=model) as client:
        result = only(predict(client, lesion_png()))
    assert result["answer"] == "cannot_judge"
    assert "out-of-distribution score" in result["message"]
    assert result["out_of_distribution_score"] == 1e6, "JSON has no infinity"
    assert result["label"] == "malignant", "what the cutoff says stays visible"


@pytest.mark.parametrize("on_empty", ["whole", "abstain"])
def test_an_image_without_a_lesion_is_not_judged(on_empty):
    slope = np.linspace(185, 245, 128)[None, :, None] + np.array([5, -5, -15])
    skin = encode_image(np.repeat(slope, 96, axis=0).astype(np.uint8))
    with service(model=fake_model(policy=MaskPolicy(on_empty=on_empty))) as client:
        result = only(predict(client, skin))
    assert result["answer"] == "cannot_judge"
    assert "no lesion was found" in result["message"]
    assert (result["box"], result["measurements"]) == (None, None)
    assert (result["label"] is None) == (result["probabilities"] == {}) == (on_empty == "abstain")


def test_an_image_that_fits_both_classes_is_undecided():
    scores = ConformalScores(np.linspace(0, 1, 50), np.linspace(0, 1, 50))
    model = fake_model(safeguards=Safeguards(conformal=scores), coverage=0.99)
    with service(model=model) as client:
        result = only(predict(client, lesion_png()))
    assert result["prediction_set"] == ["benign", "malignant"]
    assert result["answer"] == "undecided"
    assert "at coverage 0.99" in result["message"]


# --- heat maps ------------------------------------------------------------------------------------


def test_a_heat_map_comes_with_its_share_inside_the_lesion(client):
    asked = {"include": "heat_map", "tta": "flips"}
    result = only(predict(client, lesion_png(), params=asked))
    cascade = fake_model().cascade
    (prediction,) = cascade([lesion_png()], tta="flips")
    expected = explain(cascade, lesion_pixels(), prediction, tta="flips")
    shown = overlay_heat(lesion_pixels(), expected, prediction.mask)
    assert np.abs(decoded(result["images"]["heat_map"]).astype(int) - shown).max() <= 1
    assert result["heat"] == {
        "target": "malignant",
        "inside_fraction": pytest.approx(expected.inside_fraction),
        "mean_ratio": pytest.approx(expected.mean_ratio),
        "turn_agreement": pytest.approx(expected.turn_agreement),
        "is_empty": False,
        "warnings": list(expected.warnings),
    }


@pytest.mark.parametrize("error", [MissingExtraError, ConfigError])
def test_heat_maps_that_cannot_be_made_are_501(client, monkeypatch, error):
    def missing(*_, **__):
        raise error("needs grad-cam; run: pip install 'cascade[explain]'")

    monkeypatch.setattr("cascade.serving.rest.results.explain", missing)
    response = predict(client, lesion_png(), params={"include": "heat_map"})
    assert response.status_code == 501
    assert "cascade[explain]" in response.json()["detail"]
    assert only(predict(client, lesion_png()))["heat"] is None, "all else goes on"


def test_heat_maps_from_several_threads_are_the_same():
    """Row 109."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_grad_cam")
    from cascade.config import ClassifierConfig
    from cascade.models.classifier import Classifier
    from cascade.pipeline import Cascade

    torch.manual_seed(0)
    classifier = Classifier.build(ClassifierConfig(architecture="test_resnet", size=96))
    model = fake_model()
    model = replace(model, cascade=Cascade(model.cascade.segmenter, classifier.eval()))
    with service(ServiceSettings(concurrency=4, queue=50), model=model) as client:
        answers = []

        def ask(number):
            include = {"include": "heat_map"} if number % 2 else {}
            answers.append(only(predict(client, lesion_png(), params=include)))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    heats = [answer["images"]["heat_map"] for answer in answers if answer["heat"]]
    assert len(heats) == 4
    assert len(set(heats)) == 1
    assert len({answer["probabilities"]["malignant"] for answer in answers}) == 1


# --- wrong requests (row 101) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"files": upload(b"x", field="file")}, "images", "the field images is missing"),
        ({"files": upload(lesion_png()) + upload(b"x", field="mask")}, "mask", "field images"),
        ({"json": {"images": "http://169.254.169.254/"}}, "Content-Type", "application/json"),
        ({"content": lesion_png()}, "Content-Type", "is missing"),
        ({"content": b"", "headers": {"Content-Type": "image/png"}}, "body", "is empty"),
        ({"files": [("images", (None, "text"))]}, "images", "not a file"),
        ({"files": upload(lesion_png()), "params": {"tta": "flip"}}, "tta", "'flips'"),
        ({"files": upload(lesion_png()), "params": {"ttta": "none"}}, "ttta", "did you mean tta?"),
        ({"files": upload(lesion_png()), "params": {"include": "masks"}}, "include", "'mask'"),
        ({"files": upload(lesion_png()), "data": {"operating_point": "0.91"}}, "operating_point",
         "stored: 0.90, 0.95"),
        ({"files": upload(lesion_png()), "data": {"pixels_per_millimetre": "0"}},
         "pixels_per_millimetre", "greater than 0"),
        ({"files": upload(lesion_png()), "data": {"pixels_per_millimetre": "nan"}},
         "pixels_per_millimetre", ""),
        ({"files": upload(lesion_png()), "params": {"tta": ["none", "flips"]}}, "tta", "twice"),
        ({"files": upload(lesion_png()), "params": {"tta": "none"}, "data": {"tta": "none"}},
         "tta", "in the query and in the form"),
    ],
)  # fmt: skip
def test_wrong_requests_are_422_and_name_the_field(client, options, field, words):
    response = client.post("/v1/predict", **options)
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["errors"][0]["field"] == field
    assert words in problem["detail"]


def test_unknown_addresses_and_methods_are_problems_too(client):
    for response, status in ((client.get("/v2"), 404), (client.get("/v1/predict"), 405)):
        assert response.status_code == status
        assert "/docs" in response.json()["detail"]
    assert client.get("/v1/predict").headers["allow"] == "POST"


def test_there_is_no_input_by_address(client):
    """Row 98: no option takes a URL, so nothing can make the server fetch one."""
    document = client.get("/openapi.json").json()
    names = {item["name"] for item in document["paths"]["/v1/predict"]["post"]["parameters"]}
    assert names == {
        "tta", "operating_point", "pixels_per_millimetre", "patient", "include",
        "age", "sex", "site",
    }  # fmt: skip
    for name in ("url", "uri", "path", "file"):
        response = predict(client, lesion_png(), params={name: "http://169.254.169.254/"})
        assert response.status_code == 422


# --- hostile names and contents -------------------------------------------------------------------


def raw_form(name, data):
    """A form whose file name is sent as it stands."""
    head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
    return {
        "content": head.encode() + data + b"\r\n--b--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=b"},
    }


def test_a_hostile_file_name_is_no_path_and_is_escaped_everywhere(
    client, tmp_path, monkeypatch, caplog
):
    """Rows 96 and 103."""
    monkeypatch.chdir(tmp_path)
    evil = "../../<img src=x onerror=alert(1)>\u2028forged=1&.jpg"
    with caplog.at_level(logging.DEBUG):
        response = client.post("/v1/predict", **raw_form(evil, lesion_png()))
    assert response.status_code == 200
    assert b"<" not in response.content
    assert b"&" not in response.content
    name = response.json()["results"][0]["name"]
    assert name == "../../<img src=x onerror=alert(1)>\\u2028forged=1&.jpg"
    assert "\u2028" not in name, "line ends of any script are escaped"
    assert not list(tmp_path.iterdir())
    assert "img" not in caplog.text
    with caplog.at_level(logging.DEBUG):
        files = [("images", ("Jane%0Ab\nrequest=forged status=200", lesion_png()))]
        result = only(client.post("/v1/predict", files=files))
        client.post("/v1/predict?tta=a%0Arequest=forged", files=files)
        client.get("/x%0Arequest=forged")
    assert "Jane" not in caplog.text
    assert result["sha256"][:16] in caplog.text, "a hash names the image"
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("cascade")]
    assert lines
    assert not [line for line in lines if "\n" in line or "forged" in line]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "SVG"),
        (b"<!doctype html><script>alert(1)</script>", "web page"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_first_bytes(client, data, words):
    """Row 97: whatever it says that it is."""
    kind = "image/png"
    response = client.post("/v1/predict", content=data, headers={"Content-Type": kind})
    assert response.status_code == 422
    assert words in response.json()["detail"]
    form = client.post("/v1/predict", files=[("images", ("a.png", data, kind))])
    assert words in form.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/model", "/docs", "/nope"])
def test_every_answer_forbids_sniffing_framing_and_foreign_content(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers


def test_a_bomb_is_refused_from_its_header():
    """Row 95."""
    bomb = bomb_png(12_000, 12_000)
    model = fake_model(limits=ImageLimits(max_pixels=25_000_000))
    with service(model=model) as client:
        start = time.perf_counter()
        response = predict(client, bomb)
        assert time.perf_counter() - start < 2
    assert response.status_code == 422
    assert "too large" in response.json()["detail"]
    assert "the limit is 25" in response.json()["detail"]


# --- failures within ------------------------------------------------------------------------------


def failing(error):
    model = fake_model()
    plain = model.cascade.classifier.predict_proba
    calls = []

    def predict_proba(images):
        calls.append(1)
        if len(calls) == 2:  # the first warms up
            raise error
        return plain(images)

    model.cascade.classifier.predict_proba = predict_proba
    return model


def test_an_exception_within_is_a_500_with_an_id_and_nothing_else(caplog):
    """Row 102."""
    error = RuntimeError("/srv/inside/secret.py shm_7f3a", "patient Jane")
    with service(model=failing(ModelFileError("nan"))) as client:
        assert predict(client, lesion_png()).status_code == 500, "not the image's fault"
    with service(model=failing(error)) as client:
        response = predict(client, lesion_png())
        assert response.status_code == 500
        problem = response.json()
        assert set(problem) == {"title", "status", "detail", "request_id"}
        assert problem["request_id"] == response.headers["x-request-id"]
        assert not re.search("secret|shm_7f3a|Jane|RuntimeError", response.text)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert f"request={response.json()['request_id']} failed" in caplog.text
        assert "RuntimeError" in caplog.text, "the log has the rest"
        assert only(predict(client, lesion_png()))["status"] == "ok", "the worker lives on"


def out_of_memory_errors():
    """What numpy, OpenCV, the decoders and onnxruntime raise."""
    with pytest.raises(cv2.error) as opencv:
        cv2.resize(np.zeros((2, 2)), (2**29, 2**29))
    decoder = ImageError("image: there is not enough memory to decode it")
    decoder.__cause__ = MemoryError()
    return [MemoryError(), opencv.value, decoder, RuntimeError("RUNTIME_EXCEPTION: std::bad_alloc")]


@pytest.mark.parametrize("number", range(4))
def test_an_image_that_memory_does_not_suffice_for_is_said_to_be_so(number):
    error = out_of_memory_errors()[number]
    with service(model=failing(error)) as client:
        response = predict(client, lesion_png())
        assert response.status_code == 503, response.text
        assert "memory" in response.json()["detail"]
        assert int(response.headers["retry-after"]) > 0
    with service(model=failing(error)) as client:
        results = predict(client, lesion_png(), lesion_png()).json()["results"]
        assert [item["status"] for item in results] == ["error", "ok"]


# --- model, health, numbers -----------------------------------------------------------------------


def test_the_model_is_described(client):
    document = client.get("/v1/model").json()
    assert document["name"] == "fake.safetensors"
    assert document["digest"] == DIGEST
    assert document["segmenter"] == {"encoder": "fake", "size": 64}
    assert document["operating_points"] == {"0.90": 0.2, "0.95": 0.1}
    assert document["cutoff"] == 0.5
    assert document["metrics"] == {"segmenter": {"validation": {"iou": 0.8}}}
    assert document["provenance"]["segmenter"]["trained_on"] == {"count": 500}
    assert "Not a medical device" in document["intended_use"]
    assert document["card"] is None


def test_health_is_there_while_the_model_loads_and_readiness_is_not():
    """Row 104."""
    gate = threading.Event()

    def load():
        assert gate.wait(30)
        return fake_model()

    with TestClient(create_app(load=load)) as client:
        assert client.get("/healthz").status_code == 200
        waiting = client.get("/readyz")
        assert (waiting.status_code, waiting.json()) == (503, {"status": "loading"})
        early = predict(client, lesion_png())
        assert early.status_code == 503
        assert int(early.headers["retry-after"]) >= 1
        assert client.get("/v1/model").status_code == 503
        gate.set()
        for _ in range(500):
            if client.get("/readyz").status_code == 200:
                break
            time.sleep(0.01)
        assert client.get("/readyz").json() == {"status": "ok"}
        assert only(predict(client, lesion_png()))["status"] == "ok"


def test_a_model_that_cannot_be_loaded_is_never_ready_and_is_reported():
    failures = []

    def load():
        raise ModelFileError("damaged")

    with TestClient(create_app(load=load, on_failure=failures.append)) as client:
        for _ in range(500):
            if failures:
                break
            time.sleep(0.01)
        assert client.get("/readyz").json() == {"status": "failed"}
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert predict(client, lesion_png()).status_code == 503
    assert [str(error) for error in failures] == ["damaged"]


def test_numbers_for_prometheus_count_requests_and_answers():
    with service() as client:
        predict(client, lesion_png(), lesion_png(), b"x")
        predict(client, b"x")
        client.get("/unheard/of")
        lines = client.get("/metrics").text.splitlines()
    for line in (
        'cascade_requests_total{method="POST",route="/v1/predict",status="200"} 1.0',
        'cascade_requests_total{method="POST",route="/v1/predict",status="422"} 1.0',
        'cascade_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'cascade_predictions_total{answer="malignant"} 2.0',
        "cascade_image_errors_total 2.0",
        'cascade_request_seconds_count{route="/v1/predict"} 2.0',
        "cascade_prediction_seconds_count 4.0",
        "cascade_requests_in_flight 1.0",  # this very request
        "cascade_queue_length 0.0",
        "cascade_predictions_running 0.0",
        "cascade_queue_rejections_total 0.0",
        "cascade_ready 1.0",
    ):
        assert line in lines
    assert any(line.startswith("cascade_model_info{") and DIGEST in line for line in lines)
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_both_runtimes_are_served_and_named(tmp_path, runtime):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from tiny_export import tiny_cascade, tiny_export

    from cascade.models.runtimes import model_identity

    path = tiny_export() if runtime == "onnx" else tmp_path / "tiny.safetensors"
    if runtime == "torch":
        tiny_cascade().save(path)
    (tmp_path / "README.md").write_text(f"# Card\n{model_identity(path)}\n", encoding="utf-8")
    settings = ServiceSettings(model=str(path), operating_point=0.9, threads=1)
    with service(settings, load=lambda: load_model(settings)) as client:
        document = client.get("/v1/model").json()
        result = only(predict(client, lesion_png()))
    (expected,) = tiny_cascade()([lesion_png()])
    assert result["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-4)
    assert result["operating_point"] == {"cutoff": 0.2, "sensitivity": 0.9}
    assert (document["runtime"], document["name"]) == (runtime, path.name)
    assert document["digest"] == model_identity(path)
    assert document["operating_points"] == {"0.90": 0.2}
    assert set(document["safeguards"]) == {"conformal", "out_of_distribution"}
    assert bool(document["card"]) == (runtime == "torch"), "the card lies beside the file"


def test_a_card_about_another_model_is_not_shown(tmp_path):
    (tmp_path / "README.md").write_text("# Model card: other.safetensors\n", encoding="utf-8")
    model = tmp_path / "m.safetensors"
    assert find_card(model, DIGEST) is None
    (tmp_path / "m.md").write_text(f"| SHA-256 | `{DIGEST}` |", encoding="utf-8")
    assert DIGEST in find_card(model, DIGEST)
    (tmp_path / "m.md").write_bytes(b"\xff\xfe\x00" + DIGEST.encode())
    assert find_card(model, DIGEST) is None
    (tmp_path / "m.md").write_text(DIGEST + "x" * 2_000_000, encoding="utf-8")
    assert find_card(model, DIGEST) is None, "nobody reads a card of 2 MB"
