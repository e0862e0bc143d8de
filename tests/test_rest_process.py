"""The REST service as a process with real connections: slow clients, floods, signals."""

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from rest_fakes import lesion_png
from rest_process import Process

pytestmark = pytest.mark.slow

BODY = lesion_png()
HEADERS = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service for all tests that do not end it; one prediction at a time, two may wait."""
    process = Process(
        tmp_path_factory.mktemp("shared"), patience_s=1.0,
        settings={"body_timeout_s": 1.5, "max_body_mb": 5.0, "queue": 2, "concurrency": 1,
                  "timeout_s": 2.0},
    )  # fmt: skip
    yield process
    process.close()


@pytest.fixture
def quick(shared):
    yield shared
    shared.delay(0)


@pytest.fixture
def start(tmp_path):
    processes = []

    def begin(**wanted):
        processes.append(Process(tmp_path, **wanted))
        return processes[-1]

    yield begin
    for process in processes:
        process.close()


class Answer:
    """Status, headers and body of a request."""

    def __init__(self, process, method="POST", path="/v1/predict", body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            self.status = response.status
            self.headers = response.headers
            self.text = response.read().decode()
        finally:
            connection.close()

    def json(self):
        return json.loads(self.text)


def ask(process, path="/v1/predict"):
    return Answer(process, "POST", path, BODY, HEADERS)


def get(process, path):
    return Answer(process, "GET", path)


def in_background(task):
    """A thread that runs ``task`` and the list that its result is put into."""
    results = []
    thread = threading.Thread(target=lambda: results.append(task()))
    thread.start()
    return thread, results


def connect(process):
    return socket.create_connection(("127.0.0.1", process.port), timeout=30)


def head(length):
    lines = ("POST /v1/predict HTTP/1.1", "Host: x", "Content-Type: image/png",
             f"Content-Length: {length}", "Connection: close")  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def everything(connection):
    """All that comes until the other side closes."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


def test_a_large_body_is_refused_with_and_without_its_length(quick):
    """Row 90: and nothing of it piles up in memory."""
    before = quick.memory_mb()
    chunks = (b"x" * 1_000_000 for _ in range(20))
    for body in (b"x" * 20_000_000, chunks):
        assert Answer(quick, body=body, headers=HEADERS).status == 413
    assert quick.memory_mb() - before < 15
    assert ask(quick).status == 200


def test_slow_bodies_are_dropped_and_others_are_served(quick):
    """Row 92: fifty clients that send a byte now and then."""
    connections = [connect(quick) for _ in range(50)]
    try:
        for connection in connections:
            connection.sendall(head(4000) + b"x")
        start = time.monotonic()
        assert ask(quick).status == 200
        assert time.monotonic() - start < 5
        time.sleep(0.7)
        for connection in connections:
            connection.sendall(b"x")
        answers = [everything(connection) for connection in connections]
        assert {answer[:13] for answer in answers} == {b"HTTP/1.1 408 "}
        assert time.monotonic() - start < 15
    finally:
        for connection in connections:
            connection.close()


def trickle(connection, byte):
    """Send a byte now and then until the other side closes."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            connection.sendall(byte)
            time.sleep(0.2)
        except OSError:
            return
    raise AssertionError("the connection stays open")


@pytest.mark.parametrize("byte", [None, b"G"])
def test_heads_that_do_not_come_are_not_waited_for(quick, byte):
    with connect(quick) as connection:
        if byte is None:
            start = time.monotonic()
            everything(connection)
            assert time.monotonic() - start < 10
        else:
            trickle(connection, byte)


def test_the_rest_of_a_refused_body_is_not_waited_for(quick):
    with connect(quick) as connection:
        connection.sendall(head(60_000_000).replace(b"Connection: close\r\n", b""))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 "), "before the body is sent"
        trickle(connection, b"x")


def test_a_client_that_leaves_while_it_sends_leaves_no_trace(quick):
    before = len(quick.lines)
    with connect(quick) as connection:
        connection.sendall(head(4000) + b"x" * 100)
        time.sleep(0.2)
    time.sleep(0.5)
    (line,) = quick.lines[before:]
    assert "status=499" in line


def test_a_connection_is_kept_for_the_next_request(quick):
    connection = http.client.HTTPConnection("127.0.0.1", quick.port, timeout=30)
    used = set()
    for pause in (0, 1.5, 0):  # longer than a head may take
        time.sleep(pause)
        connection.request("POST", "/v1/predict", BODY, HEADERS)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        used.add(connection.sock.getsockname())
    connection.close()
    assert len(used) == 1


def metric(process, name):
    (line,) = [row for row in get(process, "/metrics").text.splitlines() if row.startswith(name)]
    return float(line.split()[-1])


def test_requests_over_the_limit_get_503_and_when_to_come_back(quick):
    """Row 93: one is predicted, two wait, sixty-one may go."""
    quick.delay(0.3)
    before = metric(quick, "cascade_queue_rejections_total")
    connections = [connect(quick) for _ in range(64)]
    for connection in connections:
        connection.sendall(head(len(BODY)) + BODY)
    answers = [everything(connection) for connection in connections]
    for connection in connections:
        connection.close()
    codes = [answer[9:12] for answer in answers]
    assert set(codes) == {b"200", b"503"}
    assert 1 <= codes.count(b"200") <= 9
    assert all(b"retry-after: " in answer for answer in answers if answer[9:12] == b"503")
    assert metric(quick, "cascade_queue_rejections_total") - before == codes.count(b"503")
    quick.delay(0)
    assert ask(quick).status == 200


def test_a_prediction_that_takes_too_long_is_504_and_the_worker_recovers(quick):
    """Row 94."""
    quick.delay(4.0)
    assert ask(quick).status == 504
    state = get(quick, "/readyz")
    assert (state.status, state.json()) == (503, {"status": "stuck"})
    assert get(quick, "/healthz").status == 200
    quick.delay(0)
    end = time.monotonic() + 20
    while get(quick, "/readyz").status != 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert ask(quick).status == 200


def test_a_client_that_left_the_queue_costs_nothing(quick):
    done = metric(quick, "cascade_prediction_seconds_count")
    quick.delay(0.6)
    first, _ = in_background(lambda: ask(quick))
    time.sleep(0.2)
    for _ in range(2):
        with connect(quick) as connection:
            connection.sendall(head(len(BODY)) + BODY)
            time.sleep(0.1)
    first.join()
    assert ask(quick).status == 200
    assert metric(quick, "cascade_prediction_seconds_count") - done == 2, "of four requests"


def test_sigterm_lets_requests_finish_and_waits_for_none_that_hangs(start):
    """Row 105."""
    process = start(settings={"timeout_s": 50.0, "concurrency": 2}, grace_s=4)
    process.delay(1.0, 60)
    asked = [in_background(lambda: ask(process)) for _ in range(2)]
    while metric(process, "cascade_predictions_running") < 2:
        time.sleep(0.02)
    process.terminate()
    begin = time.monotonic()
    time.sleep(0.4)
    with pytest.raises(OSError, match=r"(?i)refused|reset"):
        connect(process)
    process.child.wait(20)
    assert time.monotonic() - begin < 15
    assert process.child.returncode in (0, -signal.SIGTERM)
    for thread, _ in asked:
        thread.join()
    done, stopped = sorted((answers[0] for _, answers in asked), key=lambda item: item.status)
    assert (done.status, stopped.status) == (200, 503)
    assert "shutting down" in stopped.text
    assert not [line for line in process.lines if "Traceback" in line]


def test_a_service_that_was_killed_starts_again_and_has_left_nothing(start, tmp_path):
    """Row 106; and a proxy that is trusted tells clients apart."""
    first = start()
    first.delay(5)
    with connect(first) as connection:
        connection.sendall(head(len(BODY)) + BODY)
        time.sleep(0.3)
        first.child.kill()
        first.child.wait(10)
    second = start(settings={"trusted_proxy": ["127.0.0.1"], "rate_limit": 1.0})
    assert ask(second).status == 200
    assert not list((tmp_path / "work").iterdir())

    def status(client):
        headers = {"X-Forwarded-For": client}
        return Answer(second, "GET", "/v1/model", headers=headers).status

    assert [status("192.0.2.1"), status("192.0.2.1"), status("192.0.2.2")] == [200, 429, 200]


def test_memory_and_files_stay_the_same_over_many_predictions(quick):
    """Row 110."""
    open_files = Path(f"/proc/{quick.child.pid}/fd")
    for _ in range(20):
        ask(quick, "/v1/predict?include=overlay")
    before, files = quick.memory_mb(), len(list(open_files.iterdir()))
    for _ in range(80):
        assert ask(quick, "/v1/predict?include=overlay").status == 200
    assert quick.memory_mb() - before < 4
    assert len(list(open_files.iterdir())) <= files + 2, "the last connections may still close"
