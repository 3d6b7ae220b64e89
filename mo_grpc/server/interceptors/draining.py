"""How calls end with the server: those that have begun finish, streams that last for ever are told to go on elsewhere."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health

from mo_grpc.errors import Stopping
from mo_grpc.rpc.context import Context
from mo_grpc.server.interceptors.base import Handler, Interceptor

_SETTLING = 0.5
"""Seconds that calls wait at most for those behind them to be taken in."""

_PAUSE = 0.02
"""Seconds without a new call after which all have been. On a busy machine, callers take a while to call again."""

_ENDS_ITSELF = f"/{health.SERVICE_NAME}/Watch"


class DrainInterceptor(Interceptor):
    """Knows the calls that run, and can end them with an error that tells their clients how to go on."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._gate: asyncio.Event | None = None
        self._held = 0

    async def settle(self) -> None:
        """Take in what has arrived, without working on it: what gRPC has not handed over when it stops, it cancels."""
        self._gate = asyncio.Event()
        seen, left = -1, _SETTLING
        while seen != self._held and left > 0:
            seen, left = self._held, left - _PAUSE
            await asyncio.sleep(_PAUSE)

    def go_on(self) -> None:
        """Work on what has been taken in."""
        if self._gate:
            self._gate.set()

    def end_streams(self) -> None:
        """End the calls that answer with a stream, which may last for as long as their clients like."""
        self._end(self._streams)

    def end_calls(self) -> None:
        """End all others, too."""
        self._end(self._calls)

    def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        self._ended |= tasks
        for task in tasks:
            task.cancel()

    def _wrap(self, method: str, handler: Handler) -> Handler:
        if method == _ENDS_ITSELF:
            return handler
        kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
        behavior = getattr(handler, kind)

        async def unary(request: Any, context: Context) -> Any:
            task = _this_task()
            self._calls.add(task)
            try:
                if self._gate:
                    self._held += 1
                    await self._gate.wait()
                return await behavior(request, context)
            except asyncio.CancelledError:
                self._say_why(task)
                raise
            finally:
                self._calls.discard(task)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            task = _this_task()
            self._streams.add(task)
            try:
                async for response in behavior(request, context):
                    yield response
            except asyncio.CancelledError:
                self._say_why(task)
                raise
            finally:
                self._streams.discard(task)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: Handler = make(
            stream if handler.response_streaming else unary, handler.request_deserializer, handler.response_serializer
        )
        return wrapped

    def _say_why(self, task: asyncio.Task[Any]) -> None:
        """Raise what a call that was ended by us is told; others were cancelled by their clients."""
        if task in self._ended:
            self._ended.discard(task)
            task.uncancel()
            raise Stopping from None


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task  # noqa: S101 - gRPC runs each call in one
    return task
