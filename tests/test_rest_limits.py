"""What the REST service refuses before it costs anything: bodies, parts, origins, tokens, rates."""

import asyncio
import tempfile
import time

import pytest

pytest.importorskip("fastapi")

from rest_fakes import lesion_png, only, predict, service, upload

from cascade.errors import ConfigError
from cascade.serving.rest.body_limit import BodyLimit
from cascade.serving.rest.guard import TOKEN_VARIABLE, RateLimit, read_token
from cascade.serving.rest.settings import ServiceSettings

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def client():
    with service(ServiceSettings(max_body_mb=1, max_images=8)) as ready:
        yield ready


# --- bodies (row 90) ------------------------------------------------------------------------------


class Sender:
    """An ASGI client: sends chunks, with a pause before each, and records the answer."""

    def __init__(self, chunks, *, pause_s=0.0, length=None):
        self.chunks = list(chunks)
        self.pause_s = pause_s
        self.read = 0
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        self.scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        self.status = None
        self.headers = {}

    async def receive(self):
        await asyncio.sleep(self.pause_s)
        body = self.chunks.pop(0)
        self.read += len(body)
        return {"type": "http.request", "body": body, "more_body": bool(self.chunks)}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}


async def reading_app(scope, receive, send):
    """Reads all of the body, waits where it is told to, and answers 200."""
    while (await receive()).get("more_body"):
        pass
    if "gate" in scope:
        await scope["gate"].wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def limited(app=reading_app, *, max_bytes=1000, max_held_bytes=2000, timeout_s=5.0):
    return BodyLimit(app, max_bytes=max_bytes, max_held_bytes=max_held_bytes, timeout_s=timeout_s)


def ask(middleware, sender):
    asyncio.run(middleware(sender.scope, sender.receive, sender.send))
    return sender


@pytest.mark.parametrize(
    ("chunks", "length", "status", "read"),
    [
        (10, 1000, 200, 1000),
        (600, 60_000, 413, 0),  # unread
        (600, None, 413, 1100),  # one chunk over the limit, and no more
        (600, 10, 413, 1100),  # a lie
        (1, "x", 200, 100),
    ],
)
def test_a_body_is_read_up_to_the_limit(chunks, length, status, read):
    sender = ask(limited(), Sender([b"x" * 100] * chunks, length=length))
    assert (sender.status, sender.read) == (status, read)


def test_a_slow_body_is_dropped_and_its_connection_closed():
    start = time.monotonic()
    sender = ask(limited(timeout_s=0.2), Sender([b"x"] * 100, pause_s=0.05))
    assert sender.status == 408
    assert sender.headers["connection"] == "close"
    assert time.monotonic() - start < 2


def test_the_time_limit_is_for_the_body_not_for_the_answer():
    async def slow_app(scope, receive, send):
        await receive()
        await asyncio.sleep(0.3)
        await reading_app(scope, receive, send)

    sender = Sender([b"x", b""])
    sender.chunks = [b"x"]

    async def receive():
        return await sender.receive() if sender.chunks else {"type": "http.disconnect"}

    middleware = limited(slow_app, timeout_s=0.1)
    asyncio.run(middleware(sender.scope, receive, sender.send))
    assert sender.status == 200


def test_all_bodies_together_are_bounded_and_are_forgotten_once_answered():
    async def scenario():
        middleware = limited(max_bytes=1000, max_held_bytes=2500)
        gate = asyncio.Event()
        senders = [Sender([b"x" * 1000]) for _ in range(4)]
        for sender in senders:
            sender.scope["gate"] = gate
        tasks = [
            asyncio.create_task(middleware(sender.scope, sender.receive, sender.send))
            for sender in senders
        ]
        await asyncio.sleep(0.05)
        assert [sender.status for sender in senders] == [None, None, 503, 503]
        assert all(sender.headers.get("retry-after") for sender in senders[2:])
        gate.set()
        await asyncio.gather(*tasks)
        assert [sender.status for sender in senders[:2]] == [200, 200]
        later = Sender([b"x" * 1000])
        await middleware(later.scope, later.receive, later.send)
        assert later.status == 200

    asyncio.run(scenario())


def test_bytes_are_forgotten_when_the_application_fails():
    async def failing(scope, receive, send):
        await receive()
        raise RuntimeError

    async def scenario():
        middleware = limited(failing, max_held_bytes=1500)
        for _ in range(5):
            sender = Sender([b"x" * 1000])
            with pytest.raises(RuntimeError):
                await middleware(sender.scope, sender.receive, sender.send)
            assert sender.status is None, "not refused"

    asyncio.run(scenario())


def test_nothing_of_a_request_is_written_to_the_disk(monkeypatch):
    """Uploads above 1 MB too, which the form parser would spool to a file."""

    def refuse(*_, **__):
        raise AssertionError("a temporary file was made")

    for name in ("NamedTemporaryFile", "TemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    large = lesion_png() + b"\0" * 3_000_000  # behind the end of the image
    with service(ServiceSettings(max_body_mb=10)) as client:
        assert only(predict(client, large))["status"] == "ok"


# --- parts (row 91) -------------------------------------------------------------------------------

PART = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\nx\r\n'


def multipart(body):
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


HEAD = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n'


@pytest.mark.parametrize(
    "body",
    [
        PART % (b"images", b'; filename="a"') * 10_000 + b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="' + b"x" * 900_000 + b'"\r\n\r\nx\r\n',
        b"--b\r\n" + b"X-Header: y\r\n" * 70_000 + b"\r\nx\r\n--b--\r\n",
        b"\r\n" * 450_000,
        b"x" * 900_000 + b"\r\n--b--\r\n",
        HEAD + b"\r\n" + lesion_png() + b"\r\n--b",
        HEAD + b"\r\n" + b"\r\n--b" * 150_000,
        (PART % (b"tta", b""))[:-3] + b"x" * 900_000 + b"\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"",
    ],
    ids=["10,000 files", "huge name", "70,000 headers", "empty lines", "preamble", "no end",
         "broken boundaries", "long value", "no name", "empty"],
)  # fmt: skip
def test_hostile_forms_are_refused_within_a_second(client, body):
    start = time.perf_counter()
    response = client.post("/v1/predict", **multipart(body))
    seconds = time.perf_counter() - start
    assert 400 <= response.status_code < 500, response.text
    assert seconds < 1


def test_forms_without_a_usable_boundary_and_with_too_many_parts_are_refused(client):
    for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "b" * 999):
        response = client.post("/v1/predict", content=b"x", headers={"Content-Type": kind})
        assert response.status_code == 422
        assert "multipart" in response.json()["detail"]
    fields = multipart(PART % (b"tta", b"") * 100 + b"--b--\r\n")
    assert "fields" in client.post("/v1/predict", **fields).json()["detail"]
    response = client.post("/v1/predict", files=upload(*[lesion_png()] * 9))
    assert response.status_code == 422
    assert "more than 8 files" in response.json()["detail"]


# --- origins (row 99) -----------------------------------------------------------------------------

FOREIGN = "https://evil.example"
ALLOWED = "https://clinic.example"


def test_web_pages_of_other_origins_are_refused_by_default(client):
    response = predict(client, lesion_png(), headers={"Origin": FOREIGN})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    preflight = {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/predict", headers=preflight)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    for origin, status in (("null", 403), ("http://[", 403), ("https://testserver", 200)):
        response = predict(client, lesion_png(), headers={"Origin": origin})
        assert response.status_code == status, origin


def test_an_origin_that_is_listed_may_ask_and_read():
    with service(ServiceSettings(allow_origin=(ALLOWED,)), token=TOKEN) as client:
        preflight = {
            "Origin": ALLOWED,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = client.options("/v1/predict", headers=preflight)
        assert answer.status_code == 200, "the browser asks without the token"
        assert answer.headers["access-control-allow-origin"] == ALLOWED
        headers = {"Origin": ALLOWED, "Authorization": f"Bearer {TOKEN}"}
        response = predict(client, lesion_png(), headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ALLOWED
        assert "access-control-allow-credentials" not in response.headers
        refused = predict(client, lesion_png(), headers={**headers, "Origin": FOREIGN})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("origin", ["*", "clinic.example", "https://clinic.example/", "file://x"])
def test_an_origin_is_scheme_and_host(origin):
    with pytest.raises(ConfigError, match="allow_origin"):
        ServiceSettings(allow_origin=(origin,))


# --- token ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded():
    with service(ServiceSettings(max_body_mb=1), token=TOKEN) as ready:
        yield ready


@pytest.mark.parametrize(
    "given",
    [None, TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"],
)
def test_without_the_token_nothing_is_answered_or_read(guarded, given):
    headers = {} if given is None else {"Authorization": given.encode()}
    for response in (
        guarded.post("/v1/predict", content=b"x" * 2_000_000, headers=headers),
        guarded.get("/v1/model", headers=headers),
        guarded.get("/metrics", headers=headers),
    ):
        assert response.status_code == 401, "and not 413: the body is not looked at"
        assert response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in response.text
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert guarded.get(path, headers=headers).status_code == 200


def test_with_the_token_everything_is_answered(guarded):
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert predict(guarded, lesion_png(), headers=headers).status_code == 200
    assert guarded.get("/metrics", headers=headers).status_code == 200
    document = guarded.get("/openapi.json").json()
    assert document["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    assert read_token(None) == TOKEN
    file = tmp_path / "token"
    file.write_text("a-token-of-the-file\n")
    assert read_token(str(file)) == "a-token-of-the-file"


@pytest.mark.parametrize("text", ["", "short", "two lines of text\nand one more", "é" * 20])
def test_an_unusable_token_stops_the_service_and_is_not_shown(tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="openssl rand") as refused:
        read_token(str(file))
    assert not text or text not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(tmp_path / "none"))


# --- rates (row 100) ------------------------------------------------------------------------------


def test_a_flood_from_one_address_is_429():
    with service(ServiceSettings(rate_limit=3)) as client:
        statuses = [client.get("/v1/model").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        refused = predict(client, lesion_png())
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 21
        assert client.get("/healthz").status_code == 200, "health is not limited"


def test_tokens_come_back_evenly():
    limit = RateLimit(60)
    assert [limit.wait("a", 0.0) for _ in range(60)] == [0.0] * 60
    assert limit.wait("a", 0.0) == pytest.approx(1.0)
    assert limit.wait("a", 0.4) == pytest.approx(0.6)
    assert limit.wait("a", 1.5) == 0.0
    assert limit.wait("a", 1.5) > 0


def test_clients_are_counted_apart_but_one_ipv6_network_together():
    limit = RateLimit(1)
    assert limit.wait("10.0.0.1", 0) == 0
    assert limit.wait("10.0.0.2", 0) == 0
    assert limit.wait("10.0.0.1", 0) > 0
    assert limit.wait("2001:db8::1", 0) == 0
    assert limit.wait("2001:db8::ffff:2", 0) > 0
    assert limit.wait("2001:db8:0:1::1", 0) == 0
    assert limit.wait("unknown", 0) == 0


def test_a_number_of_clients_that_grows_takes_no_more_memory():
    limit = RateLimit(1)
    for number in range(20_000):
        limit.wait(str(number), 0)
    assert len(limit._buckets) == 10_000
    assert limit.wait("19999", 0) > 0, "the latest are remembered"


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"port": 70_000}, "port is 70000"),
        ({"coverage": 0.0}, "coverage is 0.0"),
        ({"max_held_mb": 5.0}, "max_held_mb is 5"),
        ({"tta": "many"}, "choose from none, flips, dihedral"),
    ],
)
def test_settings_outside_their_limits_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        ServiceSettings(**values)
