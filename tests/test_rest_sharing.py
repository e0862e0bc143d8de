"""Requests that are computed at the same time: threads, batches, memory, and the same answers."""

import copy
import io
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from conftest import FakeSegmenter
from rest_fakes import PointedClassifier, fake_model, lesion_pixels, lesion_png, predict, service

from cascade.models.exported import default_export, is_exported
from cascade.pipeline import Cascade
from cascade.serving.rest import sharing
from cascade.serving.rest.model import load_model
from cascade.serving.rest.settings import ServiceSettings
from cascade.serving.rest.sharing import Combined, combined, takes_much_memory

PATIENT = {"queue": 50}


class Log:
    """Which sessions computed, and how many at once."""

    def __init__(self):
        self.used = []
        self.running = 0
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, what, seconds):
        with self.lock:
            self.used.append(what)
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(seconds)
        with self.lock:
            self.running -= 1


class ManyCores(FakeSegmenter):
    """As an exported stage: with all its threads, or one for each caller."""

    runtime = "onnx"
    session = "all threads"

    def __init__(self, *, cores, log, seconds=0.1):
        super().__init__()
        self.cores, self.log, self.seconds = cores, log, seconds

    def single_threaded(self):
        single = copy.copy(self)
        single.session = "one thread"
        return single

    def predict(self, images):
        self.log(self.session, self.seconds)
        return super().predict(images)


class SingleThreadedClassifier(PointedClassifier):
    runtime = "onnx"

    def single_threaded(self):
        return self


def model_on(cores, log):
    segmenter = ManyCores(cores=cores, log=log)
    return replace(fake_model(), cascade=Cascade(segmenter, SingleThreadedClassifier()))


def ask_at_once(client, bodies, **options):
    """All results, in the order of the bodies."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        responses = list(pool.map(lambda body: predict(client, body, **options), bodies))
    assert [response.status_code for response in responses] == [200] * len(bodies)
    return [response.json()["results"] for response in responses]


def test_a_request_that_is_alone_gets_all_threads_and_several_get_one_each():
    log = Log()
    with service(ServiceSettings(**PATIENT), model=model_on(3, log)) as client:
        assert log.used == ["all threads", "one thread"], "both are warm before the first client"
        del log.used[:]
        for _ in range(2):
            predict(client, lesion_png())
        assert log.used == ["all threads"] * 2
        log.most = 0
        ask_at_once(client, [lesion_png()] * 9)
        assert log.most == 3, "as many as there are cores"
        assert log.used.count("one thread") >= 7
        del log.used[:]
        predict(client, lesion_png())
        assert log.used == ["all threads"]


def test_the_setting_says_how_many_run_at_once():
    log = Log()
    with service(ServiceSettings(concurrency=2, **PATIENT), model=model_on(4, log)) as client:
        ask_at_once(client, [lesion_png()] * 6)
    assert log.most == 2


class Gate(Log):
    """Once it is closed, nothing is computed until it is opened."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, what, seconds):
        assert self.open.wait(30)


def test_the_queue_keeps_its_length_with_several_cores():
    gate = Gate()
    with (
        service(ServiceSettings(queue=2), model=model_on(2, gate)) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        gate.open.clear()
        asked = [pool.submit(predict, client, lesion_png()) for _ in range(12)]
        answered = [request.result() for request in itertools.islice(as_completed(asked), 8)]
        assert [response.status_code for response in answered] == [503] * 8
        gate.open.set()
        codes = [request.result().status_code for request in asked]
        assert codes.count(200) == 4, "two are computed and two wait"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_answers_are_the_same_to_the_last_bit_alone_and_together(runtime):
    pytest.importorskip(runtime)
    if not is_exported(default_export()):
        pytest.skip("the exported default cascade is not in this clone")
    runtime = runtime.removesuffix("runtime")
    settings = ServiceSettings(model=str(default_export()), runtime=runtime, threads=2, **PATIENT)
    bodies = [lesion_png(seed, shape=(300, 400)) for seed in range(6)]
    with service(settings, model=load_model(settings)) as client:
        alone = [predict(client, body).json()["results"] for body in bodies]
        assert ask_at_once(client, bodies) == alone
    assert len({str(results[0]["probabilities"]) for results in alone}) == len(bodies)


def test_torch_on_the_cpu_runs_one_at_a_time_unless_it_is_told_otherwise():
    pytest.importorskip("torch")
    from tiny_export import tiny_cascade

    model = replace(fake_model(), cascade=tiny_cascade())
    assert model.concurrency == 1
    assert model.shareable() is model
    assert model.together is model.cascade


# --- batches --------------------------------------------------------------------------------------


def slowly_doubled(images):
    time.sleep(0.05)
    return images * 2


def called_at_once(function, inputs):
    with ThreadPoolExecutor(len(inputs)) as pool:
        return [call.exception() or call.result()
                for call in [pool.submit(function, value) for value in inputs]]  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
def test_calls_that_wait_are_computed_as_one_and_get_their_own_part(several):
    sizes = []

    def compute(images):
        sizes.append(len(images))
        doubled = slowly_doubled(images)
        return (doubled, images.sum(axis=1)) if several else doubled

    inputs = [np.full((1 + number % 2, 3), number) for number in range(8)]
    results = called_at_once(Combined(compute, threading.Lock()), inputs)
    for given, result in zip(inputs, results, strict=True):
        first = result[0] if several else result
        np.testing.assert_array_equal(first, given * 2)
        if several:
            np.testing.assert_array_equal(result[1], given.sum(axis=1))
    assert sum(sizes) == sum(map(len, inputs))
    assert len(sizes) < len(inputs), "fewer computations than calls"


def test_a_call_that_fails_does_not_fail_those_beside_it():
    def compute(images):
        time.sleep(0.05)
        if (images == 3).any():
            raise ValueError("three")
        return images

    results = called_at_once(Combined(compute, threading.Lock()), [np.full(1, n) for n in range(6)])
    assert [isinstance(result, ValueError) for result in results] == [n == 3 for n in range(6)]
    assert [int(result[0]) for n, result in enumerate(results) if n != 3] == [0, 1, 2, 4, 5]


def test_on_a_gpu_requests_that_arrive_together_are_one_batch(monkeypatch):
    monkeypatch.setattr(sharing, "usable_cores", lambda: 6)
    model = fake_model()
    segmenter, classifier = model.cascade.segmenter, model.cascade.classifier
    segmenter.on_gpu = True
    plain = segmenter.predict
    segmenter.predict = lambda images: (time.sleep(0.1), plain(images))[1]
    bodies = [lesion_png(seed) for seed in range(12)]
    with service(ServiceSettings(**PATIENT), model=model) as client:
        alone = [predict(client, body).json()["results"] for body in bodies]
        assert set(segmenter.batches) == {1}, "nobody waits for company"
        del segmenter.batches[:], classifier.batches[:]
        assert ask_at_once(client, bodies) == alone
    assert sum(segmenter.batches) == sum(classifier.batches) == 12
    assert max(segmenter.batches) > 1


def test_the_networks_of_a_gpu_take_turns():
    log = Log()
    model = fake_model()
    for stage, name in ((model.cascade.segmenter, "predict"),
                        (model.cascade.classifier, "predict_proba")):  # fmt: skip
        plain = getattr(stage, name)
        setattr(stage, name, lambda images, plain=plain: (log(1, 0.03), plain(images))[1])
    cascade = combined(model.cascade)
    called_at_once(lambda seed: cascade(lesion_pixels(seed)), list(range(6)))
    assert log.most == 1


# --- memory ---------------------------------------------------------------------------------------


def jpeg(shape):
    file = io.BytesIO()
    Image.fromarray(lesion_pixels(shape=shape)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "drawing", "much"),
    [
        (lesion_png(shape=(90, 100)), False, False),
        (lesion_png(shape=(90, 120)), False, True),
        (jpeg((90, 120)), False, False),
        (jpeg((90, 120)), True, True),
        (jpeg((90, 100)), True, False),
        (b"no image", True, False),
    ],
    ids=["small", "large", "reduced JPEG", "drawn JPEG", "small drawn JPEG", "no image"],
)
def test_what_must_be_decoded_at_full_size_takes_much_memory(monkeypatch, data, drawing, much):
    monkeypatch.setattr(sharing, "LARGE_PIXELS", 10_000)
    assert takes_much_memory(data, drawing=drawing) is much


def test_large_images_are_decoded_one_at_a_time_and_small_ones_beside_them(monkeypatch):
    monkeypatch.setattr(sharing, "LARGE_PIXELS", 10_000)
    large, small = lesion_png(shape=(90, 120)), lesion_png(shape=(80, 100))
    for bodies, most in (([large] * 5, 1), ([large, *[small] * 5], 3)):
        log = Log()
        with service(ServiceSettings(**PATIENT), model=model_on(3, log)) as client:
            log.most = 0
            ask_at_once(client, bodies)
        assert log.most == most
