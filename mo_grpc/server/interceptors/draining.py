"""How calls end with the server: those that have begun finish, streams that last for ever are told to go on elsewhere."""

import asyncio
from typing import Any

_SETTLING = 0.5
"""Seconds that calls wait at most for those behind them to be taken in."""

_PAUSE = 0.05
"""Seconds without a new call after which all have been. On a busy machine, callers take a while to call again."""


class RunningCalls:
    """Knows the calls that run, and can end them with an error that tells their clients how to go on."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Task[Any], bool] = {}
        """The calls' tasks, and whether each is one that answers with a stream."""
        self._ended: set[asyncio.Task[Any]] = set()
        self._gate: asyncio.Event | None = None
        self._waiting = 0

    def enter(self, *, streams: bool = False) -> asyncio.Task[Any]:
        """Count the running call, which is one that `streams` its answers or not; it is its task."""
        task = asyncio.current_task()
        assert task  # noqa: S101 - gRPC runs each call in one
        self._calls[task] = streams
        return task

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Count the call no more."""
        self._calls.pop(task, None)

    @property
    def held(self) -> bool:
        """Whether calls have to wait before they begin."""
        return self._gate is not None

    async def released(self) -> None:
        """Wait until calls may begin."""
        if self._gate:
            self._waiting += 1
            await self._gate.wait()

    async def settle(self) -> None:
        """Take in what has arrived, without working on it: what gRPC has not handed over when it stops, it cancels."""
        self._gate = asyncio.Event()
        seen, left = -1, _SETTLING
        while seen != self._waiting and left > 0:
            seen, left = self._waiting, left - _PAUSE
            await asyncio.sleep(_PAUSE)

    def release(self) -> None:
        """Work on what has been taken in."""
        if self._gate:
            self._gate.set()

    def end(self, *, streams: bool) -> None:
        """End the calls that answer with a stream, which may last for as long as their clients like; or all others."""
        tasks = [task for task, is_stream in self._calls.items() if is_stream is streams]
        self._ended.update(tasks)
        for task in tasks:
            task.cancel()

    def ended(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was this that cancelled the call, and not its client; then it is cancelled no more."""
        if task not in self._ended:
            return False
        self._ended.discard(task)
        task.uncancel()
        return True
