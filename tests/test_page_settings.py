"""What whoever starts the page decides, and how it is started."""

import socket
import sys
from dataclasses import replace

import pytest
from page_fakes import page_model

from cascade.commands.prediction.app import build_parser, main
from cascade.errors import ConfigError, MissingExtraError
from cascade.models.artifact import Artifact, default_model, write_artifact
from cascade.serving.page import server as web_server
from cascade.serving.page.server import serve_page, streamlit_options
from cascade.serving.page.settings import (
    LIBRARY_MODEL,
    PageSettings,
    current_settings,
    use_settings,
)


def model_file(path, *stages):
    write_artifact(path, Artifact({stage: {} for stage in stages}, {}, {}, {}))
    return path


def test_the_defaults_are_those_of_the_command():
    arguments = build_parser().parse_args([])
    default = PageSettings()
    assert (arguments.model, arguments.models) == (default.model, default.models)
    assert (arguments.host, arguments.port) == ("127.0.0.1", 8501)
    for name in ("runtime", "device", "max_upload_mb", "max_megapixels"):
        assert arguments[name] == getattr(default, name), name
    assert default.choices == {LIBRARY_MODEL: None}
    limits = PageSettings(max_upload_mb=3, max_megapixels=1.5).limits
    assert (limits.max_bytes, limits.max_pixels) == (3_000_000, 1_500_000)


def test_models_are_cascades_in_a_folder_by_name(tmp_path):
    whole = model_file(tmp_path / "b.safetensors", "segmenter", "classifier")
    exported = tmp_path / "a"
    exported.mkdir()
    (exported / "cascade.json").write_text("{}")
    model_file(tmp_path / "half.safetensors", "segmenter")
    (tmp_path / "broken.safetensors").write_bytes(b"hello")
    (tmp_path / "notes.txt").write_text("no model")
    expected = {LIBRARY_MODEL: None, "a": exported, "b.safetensors": whole}
    assert PageSettings(models=tmp_path).choices == expected


def test_two_models_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "more").mkdir()
    first = model_file(tmp_path / "m.safetensors", "segmenter", "classifier")
    second = model_file(tmp_path / "more" / "m.safetensors", "segmenter", "classifier")
    choices = PageSettings(model=first, models=tmp_path / "more").choices
    assert choices == {"m.safetensors": first, "more/m.safetensors": second}
    assert PageSettings(model=first, models=tmp_path).choices == {"m.safetensors": first}


def test_the_librarys_own_model_is_not_offered_twice():
    if not default_model().is_file():
        pytest.skip("no default cascade in this clone")
    assert default_model() not in PageSettings(models=default_model().parent).choices.values()


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has neither"):
        _ = PageSettings(models=tmp_path).choices
    with pytest.raises(ConfigError, match="cannot be listed"):
        _ = PageSettings(models=tmp_path / "none").choices


@pytest.mark.parametrize(
    "changes",
    [{"max_upload_mb": 5000}, {"max_megapixels": float("nan")}, {"max_images": 0}],
)
def test_limits_that_make_no_sense_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        PageSettings(**changes)


def test_streamlit_sends_nothing_and_watches_nothing():
    options = streamlit_options(PageSettings(max_upload_mb=7), host="127.0.0.1", port=8501)
    off = ("browser.gatherUsageStats", "global.developmentMode", "server.enableAgentApi",
           "server.enableStaticServing", "server.runOnSave", "runner.magicEnabled")  # fmt: skip
    assert not any(options[name] for name in off)
    on = ("server.enableCORS", "server.enableXsrfProtection", "server.headless",
          "logger.hideWelcomeMessage")  # fmt: skip
    assert all(options[name] for name in on)
    assert options["server.fileWatcherType"] == "none"
    assert options["server.maxUploadSize"] == 7
    assert options["client.showErrorDetails"] == "none"
    config = pytest.importorskip("streamlit.config")
    assert set(options) <= set(config._config_options_template), "it knows all of them"


def test_a_page_for_this_machine_refuses_other_host_names():
    for host, expected in (("::1", ["localhost", "127.0.0.1", "::1"]), ("0.0.0.0", [])):
        options = streamlit_options(PageSettings(), host=host, port=1)
        assert options["server.allowedHosts"] == expected


def test_without_streamlit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit.starlette", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cascade\[app\]'"):
        serve_page(PageSettings())


def test_a_port_in_use_is_named():
    pytest.importorskip("streamlit")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: something else listens there"):
            serve_page(PageSettings(), port=port)
    for host, port in (("127.0.0.1", 99999), ("no.such.host.invalid", 0)):
        with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
            serve_page(PageSettings(), host=host, port=port)
    assert main(["--model", "none.safetensors", "--port", "0"]) == 2


def test_the_model_is_read_before_the_page_is_shown(monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("streamlit")
    done = []
    monkeypatch.setattr(
        web_server, "load_model", lambda settings, name: done.append(name) or page_model()
    )

    async def serve(self, sockets):
        done.append(sockets[0].getsockname()[1])
        return

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    settings = replace(PageSettings(), max_upload_mb=3)
    before = current_settings()
    try:
        serve_page(settings, port=0)
        assert current_settings() is settings
    finally:
        use_settings(before)
    assert done[0] == LIBRARY_MODEL
    assert done[1] > 0
