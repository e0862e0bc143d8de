"""One loaded cascade and the requests for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Self

from cascade.errors import ConfigError
from cascade.pipeline.metadata import require_fusion
from cascade.serving.rest.model import ServedModel
from cascade.serving.rest.problems import HttpProblem, busy
from cascade.serving.rest.results import compare, judge
from cascade.serving.rest.schemas import ImageFailure, ImageResult, Options
from cascade.serving.rest.settings import ServiceSettings
from cascade.serving.rest.sharing import takes_much_memory
from cascade.serving.rest.telemetry import Telemetry
from cascade.serving.rest.uploads import Upload
from cascade.serving.rest.workers import Workers

log = logging.getLogger(__name__)

State = Literal["loading", "ok", "failed", "stuck"]
Results = list[ImageResult | ImageFailure]


class Engine:
    """Loads a model in the background and predicts with it, a bounded number at a time.

    Attributes:
        error: why the model could not be loaded.
    """

    def __init__(
        self,
        load: Callable[[], ServedModel],
        settings: ServiceSettings,
        telemetry: Telemetry,
        *,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """Prepare to load.

        Args:
            load: reads the model; called in a worker thread.
            settings: of the service.
            telemetry: what to tell.
            on_failure: called when the model cannot be loaded.
        """
        self.error: Exception | None = None
        self._load = load
        self._settings = settings
        self._telemetry = telemetry
        self._on_failure = on_failure
        self._model: ServedModel | None = None
        self._workers: Workers | None = None
        self._loading: asyncio.Task[None] | None = None
        self._large = threading.Lock()  # held by the one large image that is decoded at a time

    async def __aenter__(self) -> Self:
        """Start the threads and begin to load."""
        self._workers = Workers(
            queue_length=self._settings.queue,
            timeout_s=self._settings.timeout_s,
            telemetry=self._telemetry,
        )
        self._loading = asyncio.create_task(self._load_model(self._workers))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the threads end."""
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loading
        if self._workers is not None:
            self._workers.close()

    @property
    def state(self) -> State:
        """What the service can do at the moment; ``ok`` is to predict."""
        if self.error is not None:
            return "failed"
        if self._model is None or self._workers is None:
            return "loading"
        return "stuck" if self._workers.stuck else "ok"

    @property
    def model(self) -> ServedModel:
        """The loaded model.

        Raises:
            HttpProblem: 503, there is none yet.
        """
        if self._model is None:
            raise busy("the model is being loaded; try again in a moment", seconds=5)
        return self._model

    @property
    def workers(self) -> Workers:
        """The threads, once there is a model for them.

        Raises:
            HttpProblem: 503, there is none yet.
        """
        if self._model is None or self._workers is None:
            raise busy("the model is being loaded; try again in a moment", seconds=5)
        return self._workers

    async def _load_model(self, workers: Workers) -> None:
        def load(_: threading.Event) -> ServedModel:
            model = self._load().shareable()
            model.warm_up()
            return model

        try:
            model = await workers.run(load, patient=True)
        except Exception as error:  # noqa: BLE001 - whoever runs the service decides what follows
            self.error = error
            log.error("the model could not be loaded: %s", error)
            if self._on_failure is not None:
                self._on_failure(error)
            return
        reference = model.reference
        self._telemetry.model.labels(reference.version, reference.runtime, reference.digest).set(1)
        self._telemetry.ready.set(1)
        workers.grow(self._settings.concurrency or model.concurrency)
        self._model = model
        log.info("ready: %s, runtime %s, digest %.12s", model.name, model.runtime, model.digest)

    async def predict(
        self,
        uploads: Sequence[Upload],
        options: Options,
        *,
        is_wanted: Callable[[], Awaitable[bool]] | None = None,
    ) -> Results:
        """One result for each image, in order.

        Args:
            uploads: the images.
            options: what was asked for.
            is_wanted: asked when the turn of the request has come.

        Raises:
            HttpProblem: 422 no such operating point or no use for metadata, 501 no heat maps here,
                503 too busy, 504 too slow.
        """
        try:
            model, sensitivity = self.model.at(options.operating_point)
        except ConfigError as error:
            errors = [{"field": "operating_point", "message": str(error)}]
            raise HttpProblem(422, str(error), errors=errors) from error
        _require_fusion(model, options)
        options = options.model_copy(update={"tta": options.tta or self._settings.tta})

        workers = self.workers

        def work(abandoned: threading.Event) -> Results:
            results: Results = []
            for index, upload in enumerate(uploads):
                if abandoned.is_set():
                    break
                large = takes_much_memory(upload.data, drawing=bool(options.include))
                with self._large if large else contextlib.nullcontext():
                    start = time.perf_counter()
                    cascade = model.cascade if workers.alone else model.together
                    result = judge(cascade, upload, options, index=index, sensitivity=sensitivity)
                    self._note(result, time.perf_counter() - start)
                results.append(result)
            return compare(results) if options.patient else results

        return await workers.run(work, is_wanted=is_wanted)

    def _note(self, result: ImageResult | ImageFailure, seconds: float) -> None:
        self._telemetry.prediction_seconds.observe(seconds)
        if isinstance(result, ImageFailure):
            self._telemetry.image_errors.inc()
        else:
            self._telemetry.predictions.labels(result.answer).inc()
        log.info("image=%.16s status=%s ms=%.0f", result.sha256, result.status, 1000 * seconds)


def _require_fusion(model: ServedModel, options: Options) -> None:
    known = options.metadata
    try:
        require_fusion(model.cascade.safeguards.metadata, known)
    except ConfigError as error:
        errors = [{"field": name, "message": str(error)} for name in known.known()]
        raise HttpProblem(422, str(error), errors=errors) from error
