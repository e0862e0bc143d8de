"""The page in a real browser: what is asked for, kept, reached by keyboard, and how it looks."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium, find_chromium
from page_fakes import encoded

from cascade.serving.page.examples import EXAMPLES

pytest.importorskip("streamlit")
pytest.importorskip("websockets")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
TESTS = Path(__file__).parent
EVIL = "<img src=x onerror=alert(1)>.png"
SERVER = """
import os, pathlib, threading, time
from streamlit import runtime
from cascade.progress import setup_logging
from cascade.serving.page import models as web_models
from cascade.serving.page import server as web_server
from cascade.serving.page.settings import PageSettings
from page_fakes import page_model
model = page_model()
web_models._load = lambda settings, name: model
setup_logging()

def tell():
    while True:
        time.sleep(0.1)
        if runtime.exists():
            media = runtime.get_instance().media_file_mgr._storage._files_by_id
            held = f"{web_server.bytes_held()} {len(media)}"
            pathlib.Path(os.environ["HELD"]).write_text(held)

threading.Thread(target=tell, daemon=True).start()
web_server.serve_page(PageSettings(max_upload_mb=2), port=0)
"""
READY = (
    "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    " && document.querySelectorAll('h1').length === 1"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The server's home, working and temporary folder."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """File in which the server keeps writing: bytes of uploads and number of images it holds."""
    return tmp_path_factory.mktemp("held") / "held"


@pytest.fixture(scope="module")
def address(home, held):
    """Where the page is, with fake networks."""
    environment = {
        **os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1",
        "HELD": str(held),
        "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS))),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=home, env=environment, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            lines = []
            while not (found := re.search(r"http://\S+", line := server.stderr.readline())):
                lines.append(line)
                assert line, f"the server ended: {''.join(lines)}"
            yield found[0]
        finally:
            server.terminate()
            assert server.wait(30) in (0, -signal.SIGTERM), "it stops when it is told to"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as tab:
        yield tab


@pytest.fixture
def page(browser, address):
    """A new session at the start page."""
    for noted in (browser.requests, browser.messages, browser.dialogs):
        noted.clear()
    browser.resize(1280, 900)
    browser.prefer("light")
    start(browser, address)
    return browser


@pytest.fixture
def image_file(tmp_path, lesion):
    path = tmp_path / "mole.png"
    path.write_bytes(encoded(lesion.image))
    return path


def start(browser, address):
    browser.open(address)
    browser.wait_for(f"document.body?.innerText.includes({EXAMPLES[-1].title!r})")
    browser.wait_for(READY)


def examine(page, *paths):
    page.upload(*paths)
    page.wait_for("document.querySelectorAll('.cs-verdict, .cs-problem').length > 0")
    page.wait_for(READY)


def focused(page):
    """What the focused element is called; an icon's name may stand in a line before it."""
    name = (
        "(e => e.matches('main, body') ? e.tagName : e.innerText || e.ariaLabel || e.placeholder)"
    )
    return (page.run(f"{name}(document.activeElement)") or "").strip().rpartition("\n")[2]


def test_an_upload_is_examined_and_no_request_leaves_this_machine(
    page, address, image_file, tmp_path
):
    examine(page, image_file)
    text = page.text()
    assert "mole.png" in text
    assert re.search(r"Probability of malignant\s+\d", text)
    page.wait_for("[...document.images].every(image => image.naturalWidth > 0)")
    here = address.removeprefix("http://")
    allowed = (f"http://{here}", f"ws://{here}", "data:", "blob:")
    assert len(page.requests) > 10
    assert not [request for request in page.requests if not request.startswith(allowed)]
    assert page.messages == []
    assert page.dialogs == []
    shot = page.screenshot(tmp_path / "page.png")
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 20_000


def test_a_hostile_name_runs_nothing(page, tmp_path, lesion):
    path = tmp_path / EVIL
    path.write_bytes(encoded(lesion.image))
    examine(page, path)
    assert EVIL in page.run("document.querySelector('h3').innerText")
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0
    assert page.dialogs == []


def test_the_keyboard_reaches_everything_in_order(page):
    seen = []
    while len(seen) < 40 and EXAMPLES[-1].title not in seen:
        page.press("Tab")
        seen.append(focused(page))
    order = ["Skip to main content", "Upload", *(example.title for example in EXAMPLES)]
    assert [name for name in seen if name in order] == order, seen
    ring = "(s => s.outlineStyle !== 'none' || s.boxShadow !== 'none')"
    assert page.run(f"{ring}(getComputedStyle(document.activeElement))"), "focus can be seen"
    page.press("Enter")
    page.wait_for("document.querySelectorAll('.cs-verdict').length === 1")


def test_screen_readers_find_words_and_headings(page, image_file):
    examine(page, image_file)
    assert page.run("[...document.images].every(image => image.alt.length > 20)")
    levels = page.run(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))"
    )
    assert levels == [1, 2, 2, 3]
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {node.get("role", {}).get("value") for node in nodes}
    assert {"main", "heading", "image", "table", "note"} <= roles
    assert page.run("document.documentElement.lang") == "en"
    unnamed = "[...document.querySelectorAll('button')].filter(b => !(b.innerText || b.ariaLabel"
    assert page.run(f"{unnamed} || b.title)).length") == 0


def test_the_report_is_downloaded_whole(page, image_file, tmp_path):
    examine(page, image_file)
    folder = tmp_path / "downloads"
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    button = (
        "[...document.querySelectorAll('button')]"
        ".find(b => b.innerText.includes('Download a report'))"
    )
    page.wait_for(f"{button} !== undefined")
    page.run(f"{button}.click()")
    report = folder / "cascade-mole.html"
    end = time.monotonic() + 30
    while not report.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    text = report.read_text("utf-8")
    assert "mole.png" in text
    assert text.count("data:image/") == 4


def test_a_file_above_the_limit_is_refused_with_its_limit(page, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(os.urandom(3 * 1024 * 1024))
    page.upload(path)
    page.wait_for("/must be 2(\\.0)?MB or smaller/.test(document.body.innerText)")


def test_narrow_screens_need_no_sideways_scrolling(page, image_file):
    page.resize(360, 800, mobile=True)
    examine(page, image_file)
    main = "document.querySelector('[data-testid=stMain]')"
    assert page.run(f"{main}.scrollWidth - {main}.clientWidth") <= 0


def test_nothing_of_an_upload_is_written_to_disk(page, home, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    noise = np.random.default_rng(0).integers(0, 256, (700, 800, 3), dtype=np.uint8)
    path = tmp_path / "large.png"
    path.write_bytes(encoded(noise))
    assert 1_500_000 < path.stat().st_size < 2_000_000, "more than fits a parser's buffer"
    examine(page, path)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_removed_image_and_a_closed_page_leave_nothing_in_memory(page, held, image_file):
    examine(page, image_file)
    wait_until(lambda: held.read_text().startswith(f"{image_file.stat().st_size} "))
    page.run(
        "[...document.querySelectorAll('button')].find(b => b.innerText.includes('Remove')).click()"
    )
    wait_until(lambda: held.read_text().startswith("0 "))
    page.open("about:blank")
    wait_until(lambda: held.read_text() == "0 0")


def test_the_answers_carry_the_guards_headers(address):
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["server"] is None
    url = f"{address}/_stcore/upload_file/none/none"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"x"), timeout=30)
    assert refused.value.code in (400, 403), "an upload without a session"


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [({}, True), ({"Origin": "http://evil.example"}, False), ({"Host": "evil.example"}, False)],
)
def test_other_sites_cannot_open_a_session(address, headers, accepted):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    stream = address.replace("http", "ws") + "/_stcore/stream"
    refused = contextlib.nullcontext() if accepted else pytest.raises(InvalidStatus)
    with refused, connect(stream, additional_headers=headers, open_timeout=30):
        pass
