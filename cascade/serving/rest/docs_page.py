"""The page that shows the OpenAPI document; all of it comes from this package.

``swagger/`` holds two files of the npm package swagger-ui-dist 5.35.0 (Apache-2.0), unchanged.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

FOLDER = Path(__file__).parent / "swagger"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cascade: the service's interface</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<main id="swagger-ui"><p>The document behind this page is <a href="openapi.json">openapi.json</a>.
It needs JavaScript to be shown here.</p></main>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""


def add_docs_page(app: FastAPI) -> None:
    """Add ``/docs``, with relative links so that it works below any path of a proxy."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    for name, kind in _ASSETS.items():
        _add_asset(app, name, kind)


def _add_asset(app: FastAPI, name: str, kind: str) -> None:
    @app.get(f"/docs/{name}", include_in_schema=False)
    async def asset() -> Response:
        data = (FOLDER / name).read_bytes()
        return Response(data, media_type=kind, headers={"Cache-Control": "max-age=3600"})
