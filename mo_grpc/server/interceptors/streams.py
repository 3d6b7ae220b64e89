"""Ends a streaming call whose caller may no longer make it: a revocation reaches calls that are open, in both directions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from mo_grpc.errors import Unavailable
from mo_grpc.rpc.context import Context

INTERVAL = 0.25
"""Seconds between two looks whether the caller of an open stream is admitted still; a look asks memory alone."""

MAX_DOUBT = 10.0
"""Seconds for which a stream goes on while nobody knows whether its caller is admitted, because the database is away."""

Admit = Callable[[str, Context], Awaitable[object]]


def guarded(behavior: Any, admit: Admit, method: str, *, sends: bool, answers: bool) -> Any:
    """A handler that streams, whose call ends with whatever `admit` raises while it lasts.

    `admit` is asked once more when the caller has sent everything, which is when most handlers begin to act; there, doubt
    refuses, too.
    """

    async def checked(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            yield request
        await admit(method, context)

    async def one_answer(request: Any, context: Context) -> Any:
        async with _Guard(admit, method, context) as guard:
            with guard:
                return await behavior(checked(request, context), context)

    async def many_answers(request: Any, context: Context) -> AsyncIterator[Any]:
        async with _Guard(admit, method, context) as guard:
            answers = behavior(checked(request, context) if sends else request, context)
            async with aclosing(answers):
                while True:
                    with guard:
                        response = await anext(answers, None)
                    if response is None:
                        return
                    yield response

    return many_answers if answers else one_answer


class _Guard:
    """An open stream: `async with` it for the whole of the call, `with` it while the handler runs."""

    def __init__(self, admit: Admit, method: str, context: Context) -> None:
        self._admit = admit
        self._method = method
        self._context = context
        self._refusal: Exception | None = None
        self._running: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch:
            self._watch.cancel()

    def __enter__(self) -> None:
        if self._refusal:
            raise self._refusal
        self._running = asyncio.current_task()
        self._cancelling = self._running.cancelling() if self._running else 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        task, self._running = self._running, None
        # As asyncio.timeout does it: a cancellation by somebody else, as by the caller who hangs up, stays one.
        if self._refusal and task and task.uncancel() <= self._cancelling:
            raise self._refusal from None

    async def _look(self) -> None:
        """Look now and then; whatever is raised but doubt ends the stream."""
        doubt = 0.0
        while self._refusal is None and not self._context.done():
            await asyncio.sleep(INTERVAL)
            try:
                await self._admit(self._method, self._context)
                doubt = 0.0
            except Unavailable as error:
                doubt += INTERVAL
                if doubt >= MAX_DOUBT:
                    self._end(error)
            except Exception as error:
                self._end(error)

    def _end(self, refusal: Exception) -> None:
        self._refusal = refusal
        if self._running:
            self._running.cancel()
