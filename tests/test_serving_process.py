"""The REST service as a process with real connections: slow clients, floods, signals."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from serving_fakes import lesion_png
from serving_process import Process

pytestmark = pytest.mark.slow

BODY = lesion_png()
HEADERS = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def quick():
    """A service without delays, for all tests that do not end it."""
    process = Process(
        settings={"body_timeout_s": 1.5, "max_body_mb": 5.0, "queue": 20}, patience_s=1.0
    )
    yield process
    process.close()


@pytest.fixture
def start():
    processes = []

    def begin(**wanted):
        processes.append(Process(**wanted))
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
    chunks = (b"x" * 1_000_000 for _ in range(60))
    for body in (b"x" * 60_000_000, chunks):
        assert Answer(quick, body=body, headers=HEADERS).status == 413
    assert quick.memory_mb() - before < 30
    assert ask(quick).status == 200


def test_a_refusal_comes_before_the_body_is_sent(quick):
    with connect(quick) as connection:
        connection.sendall(head(60_000_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


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


@pytest.mark.parametrize("sent", [b"", b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n"])
def test_heads_that_do_not_come_are_not_waited_for(quick, sent):
    with connect(quick) as connection:
        connection.sendall(sent)
        start = time.monotonic()
        everything(connection)
        assert time.monotonic() - start < 10


def test_a_head_that_comes_byte_by_byte_is_not_waited_for_longer(quick):
    with connect(quick) as connection:
        start = time.monotonic()
        closed = False
        while time.monotonic() - start < 10 and not closed:
            try:
                connection.sendall(b"G")
                time.sleep(0.2)
            except OSError:
                closed = True
        assert closed


def test_the_rest_of_a_refused_body_is_not_waited_for(quick):
    with connect(quick) as connection:
        connection.sendall(head(60_000_000).replace(b"Connection: close\r\n", b""))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        start = time.monotonic()
        closed = False
        while time.monotonic() - start < 10 and not closed:
            try:
                connection.sendall(b"x")
                time.sleep(0.2)
            except OSError:
                closed = True
        assert closed


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


def test_requests_over_the_limit_get_503_and_when_to_come_back(start):
    """Row 93: one is predicted, two wait, sixty-one may go."""
    process = start(delay_s=1.0, settings={"concurrency": 1, "queue": 2})
    connections = [connect(process) for _ in range(64)]
    for connection in connections:
        connection.sendall(head(len(BODY)) + BODY)
    answers = [everything(connection) for connection in connections]
    for connection in connections:
        connection.close()
    codes = [answer[9:12] for answer in answers]
    assert set(codes) == {b"200", b"503"}
    assert 3 <= codes.count(b"200") <= 6
    assert all(b"retry-after: " in answer for answer in answers if answer[9:12] == b"503")
    assert ask(process).status == 200
    refused = f"cascade_queue_rejections_total {codes.count(b'503')}.0"
    assert refused in get(process, "/metrics").text


def test_a_prediction_that_takes_too_long_is_504_and_the_worker_recovers(start):
    """Row 94."""
    process = start(delay_s=1.5, settings={"timeout_s": 0.5, "queue": 0})
    assert ask(process).status == 504
    state = get(process, "/readyz")
    assert (state.status, state.json()) == (503, {"status": "stuck"})
    assert get(process, "/healthz").status == 200
    assert ask(process).status == 503, "the thread is still busy"
    time.sleep(2)
    assert get(process, "/readyz").status == 200
    assert ask(process).status == 504, "the thread took the next request"


def test_a_client_that_left_the_queue_costs_nothing(start):
    process = start(delay_s=1.0, settings={"queue": 5})
    first, _ = in_background(lambda: ask(process))
    time.sleep(0.3)
    for _ in range(4):
        with connect(process) as connection:
            connection.sendall(head(len(BODY)) + BODY)
            time.sleep(0.1)
    assert ask(process).status == 200
    first.join()
    done = "cascade_prediction_seconds_count 2.0"
    assert done in get(process, "/metrics").text, "of six requests"


def test_a_request_in_flight_is_finished_after_sigterm(start):
    """Row 105."""
    process = start(delay_s=1.5)
    asking, answers = in_background(lambda: ask(process))
    time.sleep(0.5)
    process.terminate()
    begin = time.monotonic()
    time.sleep(0.4)
    with pytest.raises(OSError, match=r"(?i)refused|reset"):
        connect(process)
    asking.join()
    assert [answer.status for answer in answers] == [200]
    process.child.wait(15)
    assert time.monotonic() - begin < 10
    assert process.child.returncode in (0, -signal.SIGTERM)
    assert not [line for line in process.lines if "Traceback" in line]


def test_the_time_of_grace_is_ten_seconds():
    from cascade.serving.rest.server import GRACE_S

    assert GRACE_S == 10


def test_a_request_that_hangs_does_not_keep_the_service_from_ending(start):
    process = start(delay_s=60.0, settings={"timeout_s": 50.0}, grace_s=1)
    asking, answers = in_background(lambda: ask(process))
    time.sleep(0.5)
    process.terminate()
    begin = time.monotonic()
    process.child.wait(20)
    assert time.monotonic() - begin < 15
    asking.join()
    assert answers[0].status == 503
    assert "is being stopped" in answers[0].text
    assert not [line for line in process.lines if "Traceback" in line]


def test_behind_a_proxy_that_is_trusted_clients_are_told_apart(start):
    process = start(settings={"trusted_proxy": ["127.0.0.1"], "rate_limit": 1.0})

    def status(client):
        headers = {"X-Forwarded-For": client}
        return Answer(process, "GET", "/v1/model", headers=headers).status

    assert [status("192.0.2.1"), status("192.0.2.1"), status("192.0.2.2")] == [200, 429, 200]


def test_a_service_that_was_killed_starts_again_and_has_left_nothing(start, tmp_path):
    """Row 106."""
    first = start(delay_s=5.0, folder=str(tmp_path))
    with connect(first) as connection:
        connection.sendall(head(len(BODY)) + BODY)
        time.sleep(0.3)
        first.child.kill()
        first.child.wait(10)
    assert not list(tmp_path.iterdir())
    second = start(folder=str(tmp_path))
    assert ask(second).status == 200
    assert not list(tmp_path.iterdir())


def test_memory_and_files_stay_the_same_over_many_predictions(quick):
    """Row 110."""
    open_files = Path(f"/proc/{quick.child.pid}/fd")
    for _ in range(30):
        ask(quick, "/v1/predict?include=overlay")
    before, files = quick.memory_mb(), len(list(open_files.iterdir()))
    for _ in range(120):
        assert ask(quick, "/v1/predict?include=overlay").status == 200
    assert quick.memory_mb() - before < 4
    assert len(list(open_files.iterdir())) <= files + 2, "the last connections may still close"
