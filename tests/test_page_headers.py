"""What stands between a browser and the page."""

import asyncio
import base64
import hashlib
from importlib import resources

import pytest

from cascade.serving.page.headers import CONTENT, HEADERS, Guarded, content_policy


async def application(scope, receive, send):
    """Answers anything with 200 and headers of its own."""
    headers = [(b"Referrer-Policy", b"unsafe-url"), (b"cache-control", b"public"), (b"x-a", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"fine"})


def ask(path, *, method="GET", length=None, held=0, most=100):
    guard = Guarded(
        application, content_policy="default-src 'none'", most_bytes=most, held_bytes=lambda: held
    )
    sent = []

    async def send(message):
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(guard(scope, None, send))
    start, body = sent
    names = [name.decode().lower() for name, _ in start["headers"]]
    assert len(names) == len(set(names)), "no header twice"
    values = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], values, body["body"]


def test_every_answer_carries_the_headers():
    status, headers, body = ask("/static/js/index.js")
    assert (status, body) == (200, b"fine")
    assert headers["content-security-policy"] == "default-src 'none'"
    assert HEADERS.items() <= headers.items()
    assert headers["x-a"] == "1"
    assert headers["cache-control"] == "public"
    for path in ("/", "/media/abc.jpg", "/_stcore/upload_file/session/file"):
        assert ask(path)[1]["cache-control"] == "no-store", "no browser keeps what users sent"


@pytest.mark.parametrize(
    ("held", "length", "status"),
    [(0, 100, 200), (0, 101, 413), (60, 40, 200), (60, 41, 413), (0, None, 200), (1, None, 413)],
)
def test_uploads_together_are_bounded(held, length, status):
    got, headers, _ = ask("/_stcore/upload_file/s/f", method="PUT", length=length, held=held)
    assert got == status
    assert HEADERS.items() <= headers.items()
    assert ask("/_stcore/upload_file/s/f", method="DELETE", held=1000)[0] == 200
    assert ask("/", method="PUT", held=1000)[0] == 200, "only uploads are refused"


def test_other_protocols_pass_untouched():
    seen = []

    async def inner(scope, receive, send):
        seen.append((scope["type"], receive, send))

    guard = Guarded(inner, content_policy="", most_bytes=1, held_bytes=lambda: 0)
    receive, send = object(), object()
    asyncio.run(guard({"type": "websocket", "path": "/"}, receive, send))
    assert seen == [("websocket", receive, send)]


def test_scripts_that_stand_in_the_page_are_allowed_by_their_digest():
    digest = base64.b64encode(hashlib.sha256(b" go() ").digest()).decode()
    policy = content_policy("<script src='a.js'></script><script> go() </script>")
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_the_policy_lets_nothing_in_from_elsewhere():
    policy = content_policy("")
    assert policy == "; ".join(CONTENT)
    for part in CONTENT:
        sources = set(part.split()[1:])
        assert sources <= {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert {"frame-ancestors 'none'", "form-action 'none'", "default-src 'none'"} <= set(CONTENT)


def test_streamlits_own_page_has_scripts_that_the_policy_knows():
    pytest.importorskip("streamlit")
    page = resources.files("streamlit").joinpath("static", "index.html").read_text("utf-8")
    assert page.count("<script>") == content_policy(page).count("'sha256-")
