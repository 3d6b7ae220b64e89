"""Background tasks of a process, all of them watched.

An outage of the database, the broker or the stored files is expected: the task is tried again with exponential back-off, and
each failure is a line in the log. Anything else is a fault: it is logged with its traceback and ends the process, which is
replaced. If a task could end alone, nothing would show it until what the task keeps current is long out of date.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg
import structlog
from google.rpc import code_pb2

from mo_grpc.errors import ServiceError
from mo_grpc.telemetry.counts import Happening, count

log = structlog.get_logger()

FIRST_PAUSE = 0.2
"""Seconds until the first retry, about; each pause is twice as long as the one before."""

LONGEST_PAUSE = 10.0
"""Seconds between two retries at most, about."""

_OUTAGES = {code_pb2.UNAVAILABLE, code_pb2.ABORTED, code_pb2.RESOURCE_EXHAUSTED}


def is_outage(error: Exception) -> bool:
    """Whether a retry may succeed: what is needed is unreachable, a standby, or too busy."""
    if isinstance(error, ServiceError):
        return error.code in _OUTAGES
    # A standby takes no LISTEN.
    return isinstance(error, TimeoutError | psycopg.OperationalError | psycopg.errors.ReadOnlySqlTransaction)


def pause(failures: int, longest: float = LONGEST_PAUSE) -> float:
    """Seconds of exponential back-off after so many failures in a row; with jitter, so that workers do not retry at once."""
    seconds = min(longest, FIRST_PAUSE * 2.0 ** min(failures - 1, 30))
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


async def outlast(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do some work, again after each outage until it is done.

    Raises:
        Exception: it failed, and not by an outage.
    """
    failures = 0
    while True:
        try:
            await work()
            return
        except Exception as error:
            if not is_outage(error):
                raise
            failures += 1
            count(Happening.TASK_FAILURE, name)
            seconds = pause(failures)
            log.warning("background task waits", task=name, cause=repr(error.__cause__ or error), retry_in=round(seconds, 1))
        await asyncio.sleep(seconds)


async def repeat(name: str, work: Callable[[], Awaitable[object]], interval: float, spread: float = 0.0) -> None:
    """Do some work every `interval` seconds, for ever, through all outages; `spread` is by which part an interval may differ.

    Raises:
        Exception: it failed, and not by an outage.
    """
    while True:
        await asyncio.sleep(interval * random.uniform(1 - spread, 1 + spread))  # noqa: S311 - not a secret
        await outlast(name, work)


async def attempt(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do some work once, while the process starts or ends; a failure is logged, and holds up nothing else."""
    try:
        await work()
    except Exception as error:
        cause = repr(error.__cause__ or error)
        log.warning("background task gave up", task=name, cause=cause, exc_info=None if is_outage(error) else error)


class Tasks:
    """The tasks of a process. None of them ends by itself: when one does, that is logged, and `on_failure` is called."""

    def __init__(self, on_failure: Callable[[], None] = lambda: None) -> None:
        self.failed = False
        self._on_failure = on_failure
        self._running: set[asyncio.Task[None]] = set()
        self._at_end: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it is stopped."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def write_behind(self, name: str, work: Callable[[], Awaitable[object]], interval: float) -> None:
        """Write what is pending every `interval` seconds, and once more when all tasks are stopped."""
        self.start(name, repeat(name, work, interval))
        self._at_end.append((name, work))

    @property
    def names(self) -> list[str]:
        """The names of those that run."""
        return [task.get_name() for task in self._running]

    async def stop(self, *names: str) -> None:
        """End the tasks of these names, or all, and wait until they have ended."""
        ending = {task for task in self._running if not names or task.get_name() in names}
        self._running -= ending
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if not names:
            for name, work in self._at_end:
                await attempt(name, work)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        wanted = task not in self._running
        if wanted and error is None:
            return
        log.error("background task failed", task=task.get_name(), exc_info=error)
        if not wanted:
            self._running.discard(task)
            self.failed = True
            self._on_failure()
