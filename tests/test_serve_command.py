"""``cascade serve``: its flags, and what keeps it from starting."""

import socket
import sys
from pathlib import Path

import pytest

from cascade.commands.prediction.serve import build_parser
from cascade.commands.prediction.serve import main as serve_main
from cascade.serving.rest.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[1]


def test_flags_and_files_set_the_same_settings(tmp_path):
    from cascade.command_line.parser import settings

    assert settings(ServiceSettings, build_parser().parse_args([])) == ServiceSettings()
    file = tmp_path / "service.yaml"
    file.write_text("port: 9000\nallow_origin: [https://a.example, https://b.example]\n")
    given = build_parser().parse_args(["--config", str(file), "--max-body-mb", "5"])
    service = settings(ServiceSettings, given)
    assert service.port == 9000
    assert service.allow_origin == ("https://a.example", "https://b.example")
    assert service.max_body_mb == 5


def error_of(caplog, *args):
    caplog.clear()
    assert serve_main(list(args)) == 2
    record = [item for item in caplog.records if item.levelname == "ERROR"][-1]
    assert "\n" not in record.getMessage()
    return record.getMessage()


@pytest.fixture
def heard(caplog):
    """What commands log reaches caplog."""
    import logging

    logger = logging.getLogger("cascade")
    propagate, logger.propagate = logger.propagate, True
    handlers, logger.handlers = logger.handlers, [logging.NullHandler()]
    import cascade.command_line.parser as arguments

    plain, arguments.setup_logging = arguments.setup_logging, lambda: None
    yield caplog
    arguments.setup_logging = plain
    logger.propagate, logger.handlers = propagate, handlers


def test_a_taken_port_is_said_in_one_line(heard):
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        model = str(ROOT / "setup.cfg")
        port = taken.getsockname()[1]
        message = error_of(heard, "--port", str(port), "--model", model)
    assert f"port {port}" in message
    assert "choose another" in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "none.safetensors"], "none.safetensors: there is no such"),
        (["--port", "0", "--model", "setup.cfg"], "setup.cfg: is not a readable safetensors file"),
        (["--host", "192.0.2.1", "--model", "setup.cfg"], "cannot listen on 192.0.2.1"),
        (["--token_file", "none", "--model", "setup.cfg"], "cannot be read"),
        (["--queue", "-1"], "queue is -1"),
        (["--allow_origin", "*"], "is no origin"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(heard, monkeypatch, args, words):
    pytest.importorskip("fastapi")
    monkeypatch.chdir(ROOT)
    assert words in error_of(heard, *args)


def test_without_the_packages_the_extra_is_named(heard, monkeypatch):
    for name in list(sys.modules):
        if name.startswith("cascade.serving.") and name != "cascade.serving.rest.settings":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    message = error_of(heard)
    assert "pip install 'cascade[serve]'" in message
    assert "fastapi" in message


def test_a_service_that_others_can_reach_without_a_token_is_warned_about(heard, monkeypatch):
    pytest.importorskip("fastapi")
    from cascade.serving.rest import server

    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.setattr(server, "check_model", lambda _: None)
    monkeypatch.delenv("CASCADE_API_TOKEN", raising=False)
    server.serve(ServiceSettings(host="0.0.0.0", port=0))
    assert "everybody who reaches this address" in heard.text
    heard.clear()
    monkeypatch.setenv("CASCADE_API_TOKEN", "0123456789abcdef")
    server.serve(ServiceSettings(host="0.0.0.0", port=0))
    monkeypatch.delenv("CASCADE_API_TOKEN")
    server.serve(ServiceSettings(port=0))
    assert "everybody" not in heard.text
    assert "0123456789abcdef" not in heard.text


def test_the_address_of_a_client_is_not_taken_from_a_header_by_default(monkeypatch):
    pytest.importorskip("fastapi")
    from cascade.serving.rest import server

    seen = []
    monkeypatch.setattr(
        server.uvicorn.Server, "run", lambda self, sockets: seen.append(self.config)
    )
    monkeypatch.setattr(server, "check_model", lambda _: None)
    server.serve(ServiceSettings(port=0))
    server.serve(ServiceSettings(port=0, trusted_proxy=("10.0.0.1",)))
    assert [config.proxy_headers for config in seen] == [False, True]
    assert seen[1].forwarded_allow_ips == ["10.0.0.1"]


def test_threads_reach_the_runtime_before_it_is_loaded(monkeypatch):
    pytest.importorskip("fastapi")
    import os

    from cascade.serving.rest import server

    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(server, "serve", lambda _: seen.append(os.environ["OMP_NUM_THREADS"]))
    assert serve_main([]) == 0
    assert serve_main(["--threads", "2"]) == 0
    assert seen == ["7", "2"]
