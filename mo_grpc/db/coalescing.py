"""Concurrent calls gathered into sets, so that N of them cost about what one costs (DESIGN §7)."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Generic, TypeVar

from mo_grpc.errors import Overloaded, ServiceError

C = TypeVar("C")
R = TypeVar("R")

QUIET = 0.001
"""Seconds without a new call after which no more are expected. Calls that wait to be accepted come within far less."""

MAX_WAIT = 0.020
"""Seconds that a call waits at most for others to join it, unless all places to run are taken."""

WINDOW = 0.050
"""Seconds that a level of concurrency is remembered: while it lasts, calls wait for as many to join."""

MAX_SET = 500
MAX_QUEUE = 2_000
"""Calls that may wait; at some 5,000 calls a second, more would only wait to be too late."""

MAX_QUEUE_OF_KEY = MAX_QUEUE // 2
"""Calls with the same key that may be there; when their customer is locked, the others find room."""

MAX_RUNNING = 2
"""Sets that run at a time: one in PostgreSQL while the next is being gathered and the last one's answers are sent."""


class Locks(Enum):
    """What a set does about a row that another transaction has locked."""

    TRY = auto()
    """Wait for a moment, then fail as a whole."""
    SKIP = auto()
    """Answer LOCKED for the commands that need it."""
    WAIT = auto()
    """Wait as long as a statement may."""


class Locked(Enum):
    """A command's result when somebody else holds the lock that it needs."""

    LOCKED = auto()


class LockedError(Exception):
    """A set failed as a whole, because somebody else holds one of its locks."""


Run = Callable[[Sequence[C], Locks], Awaitable[Sequence[R | ServiceError | Locked]]]


class _Call(Generic[C, R]):
    """One waiting or running call."""

    __slots__ = ("answer", "command", "key", "set")

    def __init__(self, command: C, key: Hashable, answer: "asyncio.Future[R]") -> None:
        self.command = command
        self.key = key
        self.answer = answer
        self.set: _Set[C, R] | None = None


class _Set(Generic[C, R]):
    """Calls that run together, and how many of them somebody still waits for."""

    __slots__ = ("awaited", "calls", "keys", "task")

    def __init__(self, calls: Sequence[_Call[C, R]]) -> None:
        self.calls = calls
        self.keys = {call.key for call in calls if call.key is not None}
        self.awaited = len(calls)
        self.task: asyncio.Task[None] | None = None
        for call in calls:
            call.set = self


class Coalescer(Generic[C, R]):
    """Gathers calls and runs them as sets, each call with an answer, an error and a deadline of its own.

    A call that is alone runs at once. While others are in flight, a set leaves as soon as as many have joined as were in flight
    together lately, when no further call has come for `QUIET`, or after `MAX_WAIT`. Leaving earlier would be slower: a set
    costs about the same whatever its size, and keeps gRPC from accepting calls. Calls with the same `key` run in their order of
    arrival, one set after the other.
    """

    def __init__(
        self,
        run: Run[C, R],
        key: Callable[[C], Hashable] | None = None,
        max_set: int = MAX_SET,
        patience: asyncio.Semaphore | None = None,
    ) -> None:
        """Take what runs a set, and `patience`, which a set holds while it has a connection to wait for a lock on."""
        self._run = run
        self._max_set = max_set
        self._key = key
        self._queue: deque[_Call[C, R]] = deque()
        self._of_key: Counter[Hashable] = Counter()
        self._active = 0
        self._running = 0
        self._busy: set[Hashable] = set()
        self._patience = patience or asyncio.Semaphore()
        self._timer: asyncio.Handle | None = None
        self._complete = False
        self._peak = self._peak_before = 0
        self._window_end = 0.0

    async def __call__(self, command: C) -> R:
        """Run one command.

        Raises:
            Overloaded: too many calls wait already.
            ServiceError: the command's own refusal, or the failure of all the set.
            CancelledError: before its set has left, without any effect; after that, the set goes on for the others' sake, and
                the command may take effect.
        """
        key = self._key(command) if self._key else None
        if len(self._queue) >= MAX_QUEUE or (key is not None and self._of_key[key] >= MAX_QUEUE_OF_KEY):
            raise Overloaded
        loop = asyncio.get_running_loop()
        call = _Call(command, key, loop.create_future())
        self._queue.append(call)
        self._of_key[key] += 1
        self._active += 1
        self._note_concurrency(loop.time())
        self._schedule(loop)
        try:
            answer: R = await call.answer
            return answer
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        finally:
            self._active -= 1
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]

    def _abandon(self, call: _Call[C, R]) -> None:
        """Make room in the queue, or stop a set that nobody waits for any more, which frees its connection."""
        call.answer.cancel()
        if call.set is None:
            with suppress(ValueError):  # a set that left this very moment has passed it over
                self._queue.remove(call)
        else:
            call.set.awaited -= 1
            if not call.set.awaited and call.set.task:
                call.set.task.cancel()

    def _note_concurrency(self, now: float) -> None:
        if now >= self._window_end:
            self._peak_before = self._peak if now < self._window_end + WINDOW else 0
            self._peak = 0
            self._window_end = now + WINDOW
        self._peak = max(self._peak, self._active)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """See that the queue leaves: at once if all have joined, else a little later."""
        if self._complete or not self._queue or self._running >= MAX_RUNNING:
            return
        if not self._running and self._active >= max(self._peak, self._peak_before):
            self._complete = True
            if self._timer is not None:
                self._timer.cancel()
            # Not this very moment: calls that have arrived with this one get to join.
            self._timer = loop.call_soon(self._leave)
        elif self._timer is None:
            self._timer = loop.call_later(QUIET, self._look, len(self._queue), loop.time() + MAX_WAIT)

    def _look(self, joined: int, latest: float) -> None:
        """Leave if no call has joined since the last look, when `joined` had, or if it is late."""
        loop = asyncio.get_running_loop()
        if len(self._queue) == joined or loop.time() >= latest:
            # Not this very moment: a busy loop looks at its clock before it looks for what has arrived.
            self._timer = loop.call_soon(self._leave)
        else:
            self._timer = loop.call_later(QUIET, self._look, len(self._queue), latest)

    def _leave(self) -> None:
        """Send the calls that may run now off as a set."""
        self._timer = None
        self._complete = False
        if self._running >= MAX_RUNNING:
            return
        taken: list[_Call[C, R]] = []
        left: deque[_Call[C, R]] = deque()
        for call in self._queue:
            if call.answer.cancelled():
                continue
            if len(taken) < self._max_set and call.key not in self._busy:
                taken.append(call)
            else:
                left.append(call)
        self._queue = left
        if taken:
            self._running += 1
            self._start(_Set(taken), self._run_together)

    def _start(self, calls: _Set[C, R], run: Callable[[_Set[C, R]], Awaitable[None]]) -> None:
        self._busy |= calls.keys
        calls.task = asyncio.ensure_future(run(calls))

    async def _run_together(self, calls: _Set[C, R]) -> None:
        """Run a set; what others have locked goes on, key by key, in sets of its own that may wait."""
        locked: list[_Call[C, R]] = []
        try:
            locked = await self._run_calls(calls.calls, Locks.TRY)
        finally:
            self._running -= 1
            groups: dict[Hashable, list[_Call[C, R]]] = {}
            for call in locked:
                groups.setdefault(call.key, []).append(call)
            self._release(calls.keys - groups.keys())
            for group in groups.values():
                self._start(_Set(group), self._run_patiently)

    async def _run_patiently(self, calls: _Set[C, R]) -> None:
        """Run a set that waits for its lock, without taking the place of those that need not."""
        try:
            async with self._patience:
                await self._run_calls(calls.calls, Locks.WAIT)
        finally:
            self._release(calls.keys)

    def _release(self, keys: set[Hashable]) -> None:
        self._busy -= keys
        self._schedule(asyncio.get_running_loop())

    async def _run_calls(self, calls: Sequence[_Call[C, R]], locks: Locks) -> list[_Call[C, R]]:
        """Run calls as one set and answer each, but for those that have to wait for a lock, which it returns."""
        try:
            results = await self._run([call.command for call in calls], locks)
        except LockedError:
            alone = len({call.key for call in calls}) == 1
            if not alone and locks is Locks.TRY:
                return await self._run_calls(calls, Locks.SKIP)
            return [call for call in calls if not call.answer.cancelled()]
        except asyncio.CancelledError:
            for call in calls:
                call.answer.cancel()
            raise
        except ServiceError as error:
            results = [error] * len(calls)
        except Exception as error:
            if len(calls) > 1:
                middle = len(calls) // 2
                return await self._run_calls(calls[:middle], locks) + await self._run_calls(calls[middle:], locks)
            _answer(calls[0], error)
            return []
        locked: list[_Call[C, R]] = []
        for call, result in zip(calls, results, strict=True):
            if not isinstance(result, Locked):
                _answer(call, result)
            elif not call.answer.cancelled():
                locked.append(call)
        return locked


def _answer(call: _Call[C, R], result: R | Exception) -> None:
    if call.answer.done():  # cancelled; what was done stays done
        return
    if isinstance(result, Exception):
        call.answer.set_exception(result)
    else:
        call.answer.set_result(result)
