"""The service as an ASGI application: its routes, and what stands before them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from cascade.models.artifact import INTENDED_USE
from cascade.serving.rest.body_limit import MEGABYTE, BodyLimit
from cascade.serving.rest.engine import Engine, Results
from cascade.serving.rest.guard import Guard, RateLimit
from cascade.serving.rest.model import ServedModel, load_model
from cascade.serving.rest.openapi import (
    DESCRIPTION,
    add_docs_page,
    prediction_request,
    refusals,
    use_document,
)
from cascade.serving.rest.problems import (
    CLIENT_LEFT,
    HttpProblem,
    busy,
    harmless_json,
    problem_response,
)
from cascade.serving.rest.schemas import (
    Health,
    ImageFailure,
    ModelDescription,
    Options,
    PredictionAnswer,
)
from cascade.serving.rest.settings import ServiceSettings
from cascade.serving.rest.telemetry import Observe, Telemetry
from cascade.serving.rest.uploads import Upload, read_uploads
from cascade.serving.rest.workers import ClientLeft
from cascade.serving.shared.uploads import NO_MEMORY
from cascade.version import __version__

PNG = "image/png"
_NO_ROUTE = {
    404: "this address does not exist; /docs lists all that do",
    405: "this address does not take this method; /docs lists those that it takes",
}


def create_app(
    settings: ServiceSettings | None = None,
    *,
    load: Callable[[], ServedModel] | None = None,
    token: str | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """Make the application; its model is loaded when it starts.

    Args:
        settings: of the service.
        load: reads the model; by default the one that the settings name.
        token: what requests must bring; by default nothing.
        on_failure: called when the model cannot be loaded.
    """
    settings = settings or ServiceSettings()
    chosen = settings
    telemetry = Telemetry()
    engine = Engine(
        load or (lambda: load_model(chosen)), settings, telemetry, on_failure=on_failure
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine:
            yield

    app = FastAPI(
        title="cascade",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HttpProblem: _answer_problem,
            HTTPException: _answer_http_exception,
            ClientLeft: _answer_nobody,
            ClientDisconnect: _answer_nobody,
        },
    )
    _add_prediction(app, engine, settings)
    _add_model(app, engine)
    _add_operations(app, engine, telemetry)
    add_docs_page(app)
    use_document(app, asks_for_token=token is not None)
    _add_middleware(app, settings, telemetry, token)
    return app


def _add_middleware(
    app: FastAPI, settings: ServiceSettings, telemetry: Telemetry, token: str | None
) -> None:
    """From the inside out: the one that is added last sees a request first."""
    app.add_middleware(
        BodyLimit,
        max_bytes=int(settings.max_body_mb * MEGABYTE),
        max_held_bytes=int(settings.max_held_mb * MEGABYTE),
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(
        Guard,
        token=token,
        origins=settings.allow_origin,
        rate_limit=RateLimit(settings.rate_limit) if settings.rate_limit else None,
    )
    if settings.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origin,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type"),
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    routes = [route.path for route in app.routes if isinstance(route, Route)]
    app.add_middleware(Observe, telemetry=telemetry, routes=routes)


def _add_prediction(app: FastAPI, engine: Engine, settings: ServiceSettings) -> None:
    @app.post(
        "/v1/predict",
        summary="Predict one or several images",
        tags=["predictions"],
        operation_id="predict",
        response_model=PredictionAnswer,
        responses={
            200: {
                "description": "One entry for each image, in order; some may be errors. With "
                "Accept: image/png, one image and one entry in include, the PNG of that entry.",
                "content": {PNG: {}},
            },
            **refusals(401, 403, 408, 413, 422, 429, 500, 501, 503, 504),
        },
        openapi_extra=prediction_request(),
    )
    async def predict(request: Request) -> Response:
        engine.workers.require_room()  # before the body is read
        uploads, options = await read_uploads(request, most=settings.max_images)
        as_png = _wants_png(request)
        if as_png:
            _require_one_drawing(uploads, options)

        async def is_wanted() -> bool:
            return not await request.is_disconnected()

        results = await engine.predict(uploads, options, is_wanted=is_wanted)
        if len(results) == 1:
            _refuse_failure(results)
        if as_png:
            encoded = getattr(results[0].images, options.include[0])  # type: ignore[union-attr]
            return Response(base64.b64decode(encoded), media_type=PNG)
        answer = PredictionAnswer(
            disclaimer=INTENDED_USE, model=engine.model.reference, results=tuple(results)
        )
        return Response(harmless_json(answer.model_dump_json()), media_type="application/json")


def _wants_png(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower()
    return PNG in accepted and "application/json" not in accepted


def _require_one_drawing(uploads: Sequence[Upload], options: Options) -> None:
    if len(uploads) == 1 and len(options.include) == 1:
        return
    message = "with Accept: image/png send one image and one entry in include, such as overlay"
    raise HttpProblem(422, message, errors=[{"field": "include", "message": message}])


def _refuse_failure(results: Results) -> None:
    """Fail the whole request if its only image cannot be used."""
    (only,) = results
    if isinstance(only, ImageFailure):
        if only.message == NO_MEMORY:
            raise busy(NO_MEMORY, seconds=10)
        raise HttpProblem(422, only.message, errors=[{"field": "images", "message": only.message}])


def _add_model(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/v1/model",
        summary="Describe the model: settings, cutoffs, provenance, metrics",
        tags=["predictions"],
        operation_id="model",
        response_model=ModelDescription,
        responses=refusals(401, 429, 503),
    )
    async def model() -> Response:
        text = engine.model.describe().model_dump_json()
        return Response(harmless_json(text), media_type="application/json")


def _add_operations(app: FastAPI, engine: Engine, telemetry: Telemetry) -> None:
    @app.get(
        "/healthz",
        summary="Report that the process runs, even while the model is being loaded",
        tags=["operations"],
        operation_id="health",
        response_model=Health,
    )
    async def health() -> Response:
        return JSONResponse({"status": engine.state})

    @app.get(
        "/readyz",
        summary="Report whether predictions can be requested",
        tags=["operations"],
        operation_id="ready",
        response_model=Health,
        responses={503: {"model": Health, "description": "Loading, failed or stuck."}},
    )
    async def ready() -> Response:
        state = engine.state
        return JSONResponse({"status": state}, status_code=200 if state == "ok" else 503)

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        tags=["operations"],
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        return Response(telemetry.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("docs")


async def _answer_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HttpProblem):
        raise error
    return problem_response(error, request.scope)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """No such route, or no such method on it."""
    if not isinstance(error, HTTPException):
        raise error
    detail = _NO_ROUTE.get(error.status_code, str(error.detail))
    problem = HttpProblem(error.status_code, detail, headers=error.headers)
    return problem_response(problem, request.scope)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)
