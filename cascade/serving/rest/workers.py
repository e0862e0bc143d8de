"""A few threads that compute, and a bounded number of requests that wait for them.

The threads live as long as the service: torch and OpenMP keep buffers for each thread that ever
computed, so a thread for each request would let the memory grow. They are daemons, so a computation
that hangs cannot keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cascade.serving.rest.problems import HttpProblem, busy
from cascade.serving.rest.telemetry import Telemetry

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Work = Callable[[threading.Event], Result]
"""A computation; the event is set when nobody waits for its result any more."""


class ClientLeft(Exception):
    """The client closed its connection before its turn came."""


@dataclass(eq=False)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]
    patient: bool
    abandoned: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)


class Workers:
    """Runs computations in a few threads while up to ``queue_length`` more wait.

    There is one thread until :meth:`grow`.
    """

    def __init__(self, *, queue_length: int, timeout_s: float, telemetry: Telemetry) -> None:
        """Start the first thread.

        Args:
            queue_length: callers of :meth:`run` that may wait for a thread.
            timeout_s: longest wait, and longest computation.
            telemetry: what to tell.
        """
        self._count = 0
        self._queue_length = queue_length
        self._timeout_s = timeout_s
        self._telemetry = telemetry
        self._free = asyncio.Semaphore(0)
        self._waiting = 0
        self._admitted = 0
        self._running: set[_Job] = set()
        self._mean_seconds = 1.0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.grow(1)

    def grow(self, count: int) -> None:
        """Let ``count`` computations run at once; never fewer than before."""
        for number in range(self._count, count):
            name = f"cascade-worker-{number}"
            threading.Thread(target=self._loop, name=name, daemon=True).start()
            self._free.release()
        if self._count < 2 <= count:
            self._free.release()  # one more lies ready for the thread that is free first
        self._count = max(self._count, count)

    @property
    def alone(self) -> bool:
        """Whether at most one computation runs and none waits."""
        return len(self._running) <= 1 and not self._waiting

    @property
    def stuck(self) -> bool:
        """Whether every thread computes something that nobody waits for any more."""
        abandoned = sum(job.abandoned.is_set() for job in self._running)
        return abandoned >= self._count

    def require_room(self) -> None:
        """Refuse a request while too many wait.

        Raises:
            HttpProblem: 503, with the time after which it is worth trying again.
        """
        if self._admitted >= self._count + self._queue_length:
            self._telemetry.rejected.inc()
            seconds = self._mean_seconds * (self._queue_length + 1) / self._count
            raise busy("too many requests are waiting; try again later", seconds=min(seconds, 60))

    async def run(
        self,
        work: Work[Result],
        *,
        is_wanted: Callable[[], Awaitable[bool]] | None = None,
        patient: bool = False,
    ) -> Result:
        """Compute something in a thread, once one is free.

        Args:
            work: called in the thread.
            is_wanted: asked when the turn has come; a client may have left by then.
            patient: let it compute as long as it takes.

        Raises:
            HttpProblem: 503 if too many wait or the turn did not come in time, 504 if the
                computation took too long. The thread then goes on until ``work`` looks at its
                event, and takes the next request after that.
            ClientLeft: ``is_wanted`` said no.
        """
        self.require_room()
        self._admitted += 1
        try:
            await self._turn()
        except BaseException:
            self._admitted -= 1
            raise
        try:
            if is_wanted is not None and not await is_wanted():
                raise ClientLeft
            job = _Job(work, asyncio.get_running_loop().create_future(), patient)
        except BaseException:
            self._leave()
            raise
        self._running.add(job)
        self._telemetry.running.set(len(self._running))
        job.done.add_done_callback(lambda _: self._finish(job))
        self._jobs.put(job)
        return await self._result(job)

    async def _turn(self) -> None:
        self._waiting += 1
        self._telemetry.waiting.set(self._waiting)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            self._telemetry.rejected.inc()
            raise busy(
                "the request waited too long in the queue; try again later",
                seconds=self._timeout_s,
            ) from error
        finally:
            self._waiting -= 1
            self._telemetry.waiting.set(self._waiting)

    async def _result(self, job: _Job) -> Any:
        try:
            async with asyncio.timeout(None if job.patient else self._timeout_s) as limit:
                return await asyncio.shield(job.done)
        except TimeoutError as error:
            if not limit.expired():  # the computation itself raised it
                raise
            self._telemetry.timeouts.inc()
            raise HttpProblem(
                504, f"the computation took more than {self._timeout_s:g} seconds; send fewer or "
                "smaller images, or ask for less"
            ) from error  # fmt: skip
        finally:
            job.abandoned.set()

    def _finish(self, job: _Job) -> None:
        """The thread is free again; called in the event loop."""
        self._running.discard(job)
        self._telemetry.running.set(len(self._running))
        if not job.patient:
            self._mean_seconds += 0.2 * (time.monotonic() - job.started - self._mean_seconds)
        self._leave()
        if not job.done.cancelled() and (error := job.done.exception()) is not None:
            log.debug("a computation ended with %s", type(error).__name__)

    def _leave(self) -> None:
        self._admitted -= 1
        self._free.release()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result, error = job.work(job.abandoned), None
            except Exception as raised:  # noqa: BLE001 - it is raised where the result is awaited
                result, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                job.done.get_loop().call_soon_threadsafe(_settle, job.done, result, error)
            del job, result, error  # a waiting thread must not keep the last images

    def close(self) -> None:
        """Let the threads end once they are done with what they compute."""
        for _ in range(self._count):
            self._jobs.put(None)


def _settle(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
