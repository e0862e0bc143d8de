"""What the OpenAPI document says beyond the types, and the page that shows it.

``swagger/`` holds two files of the npm package swagger-ui-dist 5.35.0 (Apache-2.0), unchanged; the
page loads nothing from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response

from cascade.fields import example
from cascade.imaging.formats import FORMATS
from cascade.models.artifact import INTENDED_USE
from cascade.pipeline import Prediction
from cascade.serving.rest.problems import PROBLEM_TYPE
from cascade.serving.rest.schemas import Options, Problem
from cascade.serving.rest.uploads import FIELD
from cascade.version import __version__

DESCRIPTION = (
    "Two networks analyse an image of one skin lesion: the first finds the lesion, the second "
    "estimates the probability that it is malignant.\n\n"
    f"**{INTENDED_USE}**\n\n"
    "Images are held in memory during the request and not kept."
)

REFUSALS = {
    401: "The service requires a token, and the request has none or a wrong one.",
    403: "The request comes from a web page of another origin.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    422: "A field is missing, unknown or wrong, or the only image of the request cannot be used.",
    429: "Too many requests from this address; wait for Retry-After seconds.",
    500: "A bug; the log of the service has the reason under the request_id.",
    501: "Heat maps are not available in this installation.",
    503: "Still loading, or too busy; wait for Retry-After seconds.",
    504: "The computation took too long.",
}

EXAMPLE: dict[str, Any] = {
    "disclaimer": INTENDED_USE,
    "model": {"version": __version__, "digest": "5f0c1d2e" * 8, "runtime": "onnx"},
    "results": [
        {
            "status": "ok",
            "index": 0,
            "name": "lesion.jpg",
            "sha256": "0a88c4de" * 8,
            "answer": "benign",
            "message": "Benign: probability of malignant 0.041, below the cutoff 0.093.",
            "operating_point": {"cutoff": 0.093, "sensitivity": 0.9},
            **example(Prediction),
            "patient": None,
            "heat": None,
            "images": {"mask": None, "overlay": None, "heat_map": None},
        },
        {
            "status": "error",
            "index": 1,
            "name": "notes.jpg",
            "sha256": "c17a4aee" * 8,
            "message": "image: is a PDF document, not an image; cascade reads JPEG, PNG, TIFF, "
            "BMP, WebP, GIF and DICOM",
        },
    ],
}
PROBLEM_EXAMPLE = {
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "tta: Input should be 'none', 'flips' or 'dihedral'",
    "request_id": "9f2c4b7a01d3e856",
    "errors": [{"field": "tta", "message": "Input should be 'none', 'flips' or 'dihedral'"}],
}

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
<title>cascade: REST interface</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<main id="swagger-ui"><p>The document behind this page is <a href="openapi.json">openapi.json</a>.
Showing it here needs JavaScript.</p></main>
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


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that a route may return."""
    return {
        status: {
            "model": Problem,
            "description": REFUSALS[status],
            "content": {"application/json": {"example": PROBLEM_EXAMPLE}} if status == 422 else {},
        }
        for status in statuses
    }


def prediction_request() -> dict[str, Any]:
    """Parameters and bodies of a prediction."""
    options = {
        name: _without_null(schema)
        for name, schema in Options.model_json_schema()["properties"].items()
    }
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {
            FIELD: {
                "type": "array",
                "items": binary,
                "description": f"One or more files: {FORMATS}. The parameters above may be fields "
                "of the form instead.",
            },
        },
    }
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": schema,
                "description": schema.get("description", ""),
            }
            for name, schema in options.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "image/jpeg": {"schema": binary},
                "image/png": {"schema": binary},
                "application/octet-stream": {"schema": binary},
            },
        },
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An option that is not given is left out of the request, it is never ``null``."""
    (kind,) = [kind for kind in schema.get("anyOf", [{}]) if kind.get("type") != "null"]
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "title")}
    return {**kept, **kind}


def use_document(app: FastAPI, *, asks_for_token: bool) -> None:
    """Let an application serve this document.

    Args:
        app: with all its routes.
        asks_for_token: requests must bring a token.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, asks_for_token)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, asks_for_token: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=[{"url": "."}],
    )
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if status >= "400" and "application/json" in content:
                    answer["content"] = {PROBLEM_TYPE: content["application/json"]}
            if asks_for_token and path.startswith("/v1/"):
                operation["security"] = [{"token": []}]
    # put in last, because FastAPI would take all that is null out of it
    answers = document["paths"]["/v1/predict"]["post"]["responses"]
    answers["200"]["content"]["application/json"]["example"] = EXAMPLE
    if asks_for_token:
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
    return document


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
