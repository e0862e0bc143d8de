"""Starting the page: Streamlit in this process, reachable at its own address only."""

from __future__ import annotations

import asyncio
import logging
from importlib import resources
from pathlib import Path
from typing import Any

from cascade.errors import MissingExtraError
from cascade.serving.page.headers import Guarded, content_policy
from cascade.serving.page.memory import bytes_held
from cascade.serving.page.models import load_model
from cascade.serving.page.settings import PageSettings, use_settings
from cascade.serving.shared.heap import bound_heap
from cascade.serving.shared.listening import address, listen

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("script.py")
LOOPBACK = ("localhost", "127.0.0.1", "::1")

UPLOADS_HELD = 8
"""All uploads of all users together may take this many times the largest one."""


def streamlit_options(settings: PageSettings, *, host: str, port: int) -> dict[str, Any]:
    """Streamlit's own options; they win over configuration files of whoever starts the page.

    Args:
        settings: of the page.
        host: address to listen on; on this machine only, other host names are refused too.
        port: to listen on.
    """
    return {
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "viewer",
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        "runner.magicEnabled": False,
        "server.address": host,
        "server.allowedHosts": list(LOOPBACK) if host in LOOPBACK else [],
        "server.enableAgentApi": False,
        "server.enableCORS": True,
        "server.enableStaticServing": False,
        "server.enableXsrfProtection": True,
        "server.fileWatcherType": "none",
        "server.headless": True,
        "server.maxUploadSize": settings.max_upload_mb,
        "server.port": port,
        "server.runOnSave": False,
        **_theme(),
    }


def _theme() -> dict[str, Any]:
    """Colours of buttons and links with enough contrast, and no font from elsewhere."""
    return {
        "theme.font": "sans-serif",
        "theme.headingFontSizes": ["2.1rem", "1.6rem", "1.3rem"],
        "theme.paddingTop": "1rem",
        "theme.paddingBottom": "3rem",
        "theme.light.primaryColor": "#0b4f8a",
        "theme.light.linkColor": "#0b4f8a",
        "theme.light.textColor": "#1b1f24",
        "theme.dark.primaryColor": "#7db8f0",
        "theme.dark.linkColor": "#a3ccf7",
        "theme.dark.textColor": "#e8ecf0",
    }


def serve_page(settings: PageSettings, *, host: str = "127.0.0.1", port: int = 8501) -> None:
    """Read the first model, then show the page until the process is told to stop.

    Args:
        settings: of the page.
        host: address to listen on.
        port: to listen on; 0 takes a free one.

    Raises:
        MissingExtraError: Streamlit is not installed.
        ConfigError: the address cannot be listened on.
        CascadeError: the model cannot be used.
    """
    try:
        import uvicorn
        from starlette.formparsers import MultiPartParser
        from starlette.middleware import Middleware
        from streamlit.starlette import App
        from streamlit.web.bootstrap import load_config_options
    except ImportError as error:
        raise MissingExtraError(
            "the page needs Streamlit; run: pip install 'cascade[app]'"
        ) from error
    bound_heap()
    use_settings(settings)
    with listen(host, port) as listener:
        port = listener.getsockname()[1]
        load_model(settings, next(iter(settings.choices)))
        load_config_options(streamlit_options(settings, host=host, port=port))
        # Uploads stay in memory: the parser would write files above 1 MB to a temporary file
        MultiPartParser.spool_max_size = settings.limits.max_bytes + 1024 * 1024
        page = resources.files("streamlit").joinpath("static", "index.html").read_text("utf-8")
        guard = Middleware(
            Guarded,
            content_policy=content_policy(page),
            most_bytes=UPLOADS_HELD * settings.limits.max_bytes,
            held_bytes=bytes_held,
        )
        app = App(SCRIPT, middleware=[guard])
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        log.info("the page is at %s (Ctrl-C stops it)", address(host, port))
        asyncio.run(server.serve(sockets=[listener]))
