"""Concurrent calls collected into batches, so that N of them cost about as much as one."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Generic, TypeVar

from mo_grpc.db.locks import Locked, LockedError, Locks
from mo_grpc.errors import OutcomeUnknown, Overloaded, ServiceError
from mo_grpc.telemetry.calls import Work, begin_batch, current_call

C = TypeVar("C")
R = TypeVar("R")

QUIET = 0.002
"""Seconds without a new call after which no more are expected: gRPC accepts calls one by one, each in less than that."""

MAX_WAIT = 0.005
"""Seconds that a call waits at most for others to join it, unless as many batches run as may."""

WINDOW = 0.050
"""Seconds that a level of concurrency is remembered: while it lasts, as many calls are expected."""

MAX_BATCH = 500
MAX_QUEUE = 2_000
"""Calls that may wait; at about 5,000 calls a second, more would be answered too late."""

MAX_QUEUE_OF_KEY = MAX_QUEUE // 2
"""Calls with the same key that may wait or run, so that calls for one locked customer do not fill the queue."""

MAX_RUNNING = 2
"""Batches that run at a time: one in PostgreSQL while the next is collected and the answers of the last are sent."""

CONFIRMATION = 10.0
"""Seconds that calls wait for their commit, which may take for ever while a synchronous standby is away."""


class _Call(Generic[C, R]):
    """One waiting or running call."""

    __slots__ = ("answer", "asked", "batch", "command", "key", "observed")

    def __init__(self, command: C, key: Hashable, answer: "asyncio.Future[R]") -> None:
        self.command = command
        self.key = key
        self.answer = answer
        self.observed = current_call()
        self.asked = perf_counter()
        self.batch: Batch[C, R] | None = None


class Batch(Generic[C, R]):
    """Calls that run together, and how many of their callers still wait."""

    __slots__ = ("_commits", "awaited", "calls", "keys", "task", "work")

    def __init__(self, calls: Sequence[_Call[C, R]]) -> None:
        self.calls = calls
        self.keys = {call.key for call in calls if call.key is not None}
        self.awaited = len(calls)
        self.task: asyncio.Task[None] | None = None
        self._commits = False
        first = calls[0].observed
        self.work = Work(first.method if first else "", len(calls), batch=True)
        for call in calls:
            call.batch = self
            if call.observed:
                call.observed.ride(self.work, call.asked)

    def abandon(self) -> None:
        """Note that a caller has left; when all have, cancel the batch, to free its connection, unless it is committing."""
        self.awaited -= 1
        if not self.awaited and self.task and not self._commits:
            self.task.cancel()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Commit without being cancelled, and without keeping the callers waiting for ever.

        If a COMMIT is cancelled while it waits for a synchronous standby, PostgreSQL commits all the same, and the
        transaction is lost with the server. So the batch continues, and keeps its keys, until the outcome is known.
        """
        self._commits = True
        late = asyncio.get_running_loop().call_later(CONFIRMATION, self._tell_unknown)
        try:
            yield
        finally:
            late.cancel()
            self._commits = False

    def _tell_unknown(self) -> None:
        for call in self.calls:
            _answer(call, OutcomeUnknown())


Run = Callable[[Sequence[C], Locks, Batch[C, R]], Awaitable[Sequence[R | ServiceError | Locked]]]


class Coalescer(Generic[C, R]):
    """Collects calls and runs them as batches, each call with an answer, an error and a deadline of its own.

    A call that is alone is dispatched at once. While others are in flight, a batch is dispatched as soon as as many have joined
    as were in flight together lately, or when no further call has come for `QUIET`. Dispatching earlier would be slower,
    because a batch costs about the same whatever its size. A timer takes a millisecond at least, which would be slower, too; so
    each turn of the event loop checks again, and runs other tasks in between.

    Calls with the same `key` run in their order of arrival, one batch after the other.
    """

    def __init__(
        self,
        run: Run[C, R],
        key: Callable[[C], Hashable] | None = None,
        max_batch: int = MAX_BATCH,
        lock_wait_slots: asyncio.Semaphore | None = None,
    ) -> None:
        """Take the function that runs a batch, and the slots; a batch holds one while it may wait long for a lock."""
        self._run = run
        self._max_batch = max_batch
        self._key = key
        self._queue: deque[_Call[C, R]] = deque()
        self._of_key: Counter[Hashable] = Counter()
        self._running = 0
        self._active = 0
        self._busy: set[Hashable] = set()
        self._lock_wait_slots = lock_wait_slots or asyncio.Semaphore()
        self._dispatching = False
        self._joined_at = 0.0
        self._peak = self._peak_before = 0
        self._window_end = 0.0

    async def __call__(self, command: C) -> R:
        """Run one command.

        Raises:
            Overloaded: too many calls wait already.
            ServiceError: the command's own refusal, or the failure of the whole batch.
            CancelledError: before its batch was dispatched, the command has no effect; after that, the batch continues for
                its other calls, and the command may take effect.
        """
        if len(self._queue) >= MAX_QUEUE:
            raise Overloaded
        loop = asyncio.get_running_loop()
        key = None
        if self._key:
            key = self._key(command)
            if self._of_key[key] >= MAX_QUEUE_OF_KEY and key is not None:
                raise Overloaded
            self._of_key[key] += 1
        call: _Call[C, R] = _Call(command, key, loop.create_future())
        self._queue.append(call)
        self._active += 1
        self._note_concurrency(loop.time())
        if key not in self._busy:
            self._schedule(loop)
        try:
            return await call.answer
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        finally:
            self._active -= 1
            if self._key:
                self._of_key[key] -= 1
                if not self._of_key[key]:
                    del self._of_key[key]

    def _abandon(self, call: _Call[C, R]) -> None:
        """Remove the call from the queue, or notify its batch."""
        call.answer.cancel()
        if call.batch is not None:
            call.batch.abandon()
        else:
            with suppress(ValueError):  # it is being dispatched just now, and was skipped
                self._queue.remove(call)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the queue dispatched as soon as possible."""
        if self._dispatching or not self._queue or self._running >= MAX_RUNNING:
            return
        self._dispatching = True
        # Not at once, so that calls that have arrived together with this one can join.
        loop.call_soon(self._look, loop, loop.time() + MAX_WAIT)

    def _look(self, loop: asyncio.AbstractEventLoop, latest: float) -> None:
        """Dispatch if as many calls have joined as are expected, if no more arrive, or if it is late."""
        now = loop.time()
        more = self._running or self._active < max(self._peak, self._peak_before)
        if more and now < min(self._joined_at + QUIET, latest):
            loop.call_soon(self._look, loop, latest)
        else:
            self._dispatching = False
            self._dispatch()

    def _note_concurrency(self, now: float) -> None:
        self._joined_at = now
        if now >= self._window_end:
            self._peak_before = self._peak if now < self._window_end + WINDOW else 0
            self._peak = 0
            self._window_end = now + WINDOW
        self._peak = max(self._peak, self._active)

    def _dispatch(self) -> None:
        """Start a batch of the calls that may run now."""
        taken: list[_Call[C, R]] = []
        left: deque[_Call[C, R]] = deque()
        for call in self._queue:
            if call.answer.cancelled():
                continue
            if len(taken) < self._max_batch and call.key not in self._busy:
                taken.append(call)
            else:
                left.append(call)
        self._queue = left
        if taken:
            self._running += 1
            self._start(Batch(taken), self._run_together)

    def _start(self, batch: Batch[C, R], run: Callable[[Batch[C, R]], Awaitable[None]]) -> None:
        self._busy |= batch.keys
        batch.task = asyncio.ensure_future(run(batch))

    async def _run_together(self, batch: Batch[C, R]) -> None:
        """Run a batch; its calls that are locked elsewhere continue, key by key, in batches of their own that may wait."""
        locked: list[_Call[C, R]] = []
        begin_batch(batch.work)
        try:
            locked = await self._run_calls(batch.calls, Locks.TRY, batch)
        finally:
            batch.work.end()
            self._running -= 1
            groups: dict[Hashable, list[_Call[C, R]]] = {}
            for call in locked:
                groups.setdefault(call.key, []).append(call)
            self._release(batch.keys - groups.keys())
            for group in groups.values():
                self._start(Batch(group), self._run_waiting)

    async def _run_waiting(self, batch: Batch[C, R]) -> None:
        """Run a batch that waits for its lock, without occupying the slot of one that does not."""
        begin_batch(batch.work)
        try:
            async with self._lock_wait_slots:
                # Again without waiting: if an idempotency key is in flight elsewhere by now, its call is answered at once.
                locked = await self._run_calls(batch.calls, Locks.SKIP, batch)
                if locked:
                    await self._run_calls(locked, Locks.WAIT, batch)
        finally:
            batch.work.end()
            self._release(batch.keys)

    def _release(self, keys: set[Hashable]) -> None:
        self._busy -= keys
        self._schedule(asyncio.get_running_loop())

    async def _run_calls(self, calls: Sequence[_Call[C, R]], locks: Locks, batch: Batch[C, R]) -> list[_Call[C, R]]:
        """Run calls together and answer each, except those that have to wait for a lock; these are returned."""
        try:
            results = await self._run([call.command for call in calls], locks, batch)
        except LockedError:
            batch.work.phase = "lock"  # what it was doing was to wait for one
            if locks is Locks.TRY:
                return await self._run_calls(calls, Locks.SKIP, batch)
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
                first = await self._run_calls(calls[:middle], locks, batch)
                return first + await self._run_calls(calls[middle:], locks, batch)
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
    if call.answer.done():  # cancelled, or answered with OutcomeUnknown; the effect stays
        return
    if isinstance(result, Exception):
        call.answer.set_exception(result)
    else:
        call.answer.set_result(result)
