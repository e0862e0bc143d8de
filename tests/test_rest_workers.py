"""A bounded number of computations, and a bounded number that wait."""

import asyncio
import threading
import time

import pytest

pytest.importorskip("fastapi")

from cascade.serving.rest.problems import HttpProblem
from cascade.serving.rest.telemetry import Telemetry
from cascade.serving.rest.workers import ClientLeft, Workers


def workers(count=1, *, queue_length=2, timeout_s=5.0):
    made = Workers(queue_length=queue_length, timeout_s=timeout_s, telemetry=Telemetry())
    made.grow(count)
    return made


class Counted:
    """Work that notes how many run at once."""

    def __init__(self, seconds=0.05):
        self.seconds = seconds
        self.running = 0
        self.most = 0
        self.threads = set()
        self.lock = threading.Lock()

    def __call__(self, abandoned):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        with self.lock:
            self.running -= 1
        return threading.get_ident()


async def outcome(awaitable):
    try:
        return await awaitable
    except HttpProblem as problem:
        return problem.status


@pytest.mark.parametrize("count", [1, 2])
def test_no_more_run_at_once_than_there_are_threads(count):
    async def scenario():
        pool, work = workers(count, queue_length=10), Counted()
        results = await asyncio.gather(*(pool.run(work) for _ in range(8)))
        pool.close()
        return work, results

    work, results = asyncio.run(scenario())
    assert work.most == count
    assert len(work.threads) == count, "always the same threads"
    assert set(results) == work.threads


def test_a_thread_of_several_goes_on_while_the_event_loop_is_busy():
    done = []

    def work(_):
        time.sleep(0.02)
        done.append(1)

    async def scenario():
        pool = workers(2, queue_length=4)
        calls = [asyncio.create_task(pool.run(work)) for _ in range(4)]
        while not done:
            await asyncio.sleep(0)
            if len(pool._running) == 3:
                time.sleep(0.3)  # two run, one lies ready; nothing else can be handed over
        assert len(done) == 3
        await asyncio.gather(*calls)
        pool.close()

    asyncio.run(scenario())
    assert len(done) == 4


def test_those_over_the_queue_are_refused_at_once():
    async def scenario():
        pool = workers(1, queue_length=2)
        start = time.monotonic()
        outcomes = await asyncio.gather(*(outcome(pool.run(Counted(0.2))) for _ in range(6)))
        pool.close()
        return outcomes, time.monotonic() - start

    outcomes, seconds = asyncio.run(scenario())
    assert outcomes.count(503) == 3
    assert seconds < 2


def test_waiting_too_long_for_a_turn_is_503_and_computing_too_long_is_504():
    before = threading.enumerate()

    async def scenario():
        pool = workers(1, queue_length=1, timeout_s=0.2)
        outcomes = await asyncio.gather(
            outcome(pool.run(Counted(0.5))), outcome(pool.run(Counted(0.0)))
        )
        assert pool.stuck
        await asyncio.sleep(0.6)
        assert not pool.stuck
        assert await pool.run(Counted(0.3), patient=True), "as long as it takes"
        own = [item for item in threading.enumerate() if item not in before]
        assert len(own) == 1
        assert own[0].daemon
        pool.close()
        own[0].join(5)
        assert not own[0].is_alive()
        return outcomes

    assert asyncio.run(scenario()) == [504, 503]


def test_work_is_told_when_nobody_waits_for_it():
    told = threading.Event()

    def work(abandoned):
        if abandoned.wait(5):
            told.set()

    async def scenario():
        pool = workers(timeout_s=0.1)
        assert await outcome(pool.run(work)) == 504
        pool.close()

    asyncio.run(scenario())
    assert told.wait(5)


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError("of the work itself")])
def test_errors_reach_the_caller_and_the_thread_lives_on(error):
    def failing(_):
        raise error

    async def scenario():
        pool = workers()
        with pytest.raises(type(error), match=str(error)):
            await pool.run(failing)
        assert await pool.run(Counted(0.0))
        pool.close()

    asyncio.run(scenario())


def test_a_client_that_left_takes_no_turn():
    async def left():
        return False

    async def scenario():
        pool, work = workers(), Counted()
        with pytest.raises(ClientLeft):
            await pool.run(work, is_wanted=left)
        assert not work.threads
        assert await pool.run(work)
        pool.close()

    asyncio.run(scenario())


def test_a_caller_that_is_cancelled_while_waiting_makes_room():
    async def scenario():
        pool = workers(1, queue_length=1)
        first = asyncio.create_task(pool.run(Counted(0.2)))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(pool.run(Counted()))
        await asyncio.sleep(0.05)
        with pytest.raises(HttpProblem):
            pool.require_room()
        second.cancel()
        await asyncio.sleep(0)
        pool.require_room()
        await first
        pool.close()

    asyncio.run(scenario())


def test_the_last_result_is_not_kept():
    import gc
    import weakref

    class Large:
        pass

    async def scenario():
        pool = workers()
        reference = weakref.ref(await pool.run(lambda _: Large()))
        await asyncio.sleep(0.1)
        gc.collect()
        assert reference() is None
        pool.close()

    asyncio.run(scenario())
