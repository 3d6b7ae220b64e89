"""What is known of a call and of its work in the database, for whoever observes them: metrics, traces, logs.

Without observers it costs a call a few attributes, and no clock is read more than once a phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Any, NamedTuple

import grpc

UNKNOWN_METHOD = "/unknown/unknown"
"""Stands for the names of all methods that there are not, since a caller may invent any number of them."""


class Phase(NamedTuple):
    """A part of some work; the times are seconds of `perf_counter`."""

    name: str
    began: float
    ended: float


class RoundTrip(NamedTuple):
    """Statements that were sent together; the times are seconds of `perf_counter`."""

    statements: tuple[str, ...]
    """Their SQL, which has placeholders for all values."""
    began: float
    ended: float


class Rider(NamedTuple):
    """A traced call for which work was done, as its span, and since when (`perf_counter`) it had waited for that."""

    span: object
    asked: float


class Work:
    """Work in the database: a batch that many calls ride in, or a transaction of one call.

    Its phases follow each other: of a batch, `pool` (waiting for a connection), `read` (or `lock`, if rows were locked by
    others and it waited for them), `decide`, and `write` (with the COMMIT); of a transaction, `pool`, `statements`, `commit`.
    If it is tried again, there are more of them.
    """

    __slots__ = (
        "_sent",
        "batch",
        "began",
        "ended",
        "method",
        "phase",
        "phases",
        "riders",
        "round_trips",
        "size",
        "statements",
        "trips",
    )

    def __init__(self, method: str, size: int = 1, *, batch: bool = False) -> None:
        """Begin work for `size` calls, the first of which is of `method`; "" is work that no call waits for."""
        self.method = method
        self.batch = batch
        self.size = size
        self.phase = "pool"
        """What is being done, since `ended`; empty when all is done."""
        self.phases: list[Phase] = []
        self.statements = 0
        self.round_trips = 0
        self.riders: list[Rider] = []
        """The traced calls among those that it is for."""
        self.trips: list[RoundTrip] = []
        """Its round trips, if it has riders."""
        self.began = self.ended = self._sent = perf_counter()
        for observer in observers:
            observer.work_began(self)

    def begin(self, phase: str) -> None:
        """Note that a phase ends and another one begins."""
        if phase != self.phase:
            began, self.ended = self.ended, perf_counter()
            self.phases.append(Phase(self.phase, began, self.ended))
            self.phase = phase

    def begin_trip(self, statements: int) -> None:
        """Note that so many statements are sent together."""
        self.round_trips += 1
        self.statements += statements
        self._sent = perf_counter()

    def end_trip(self, statements: Sequence[str]) -> None:
        """Note what the last round trip was; nobody asks for it where there are no riders."""
        self.trips.append(RoundTrip(tuple(statements), self._sent, perf_counter()))

    def end(self) -> None:
        """Note that the work is done, well or not."""
        self.begin("")
        for observer in observers:
            observer.work_ended(self)


class Ride(NamedTuple):
    """Work that was done for a call, and since when (`perf_counter`) the call had waited for it to begin."""

    work: Work
    asked: float


MOST_RIDES = 100
"""How much of its work a call remembers: a stream may read for days."""


class Call:
    """A call of an RPC, from when the server begins to look at it until it is answered."""

    __slots__ = (
        "began",
        "caller",
        "code",
        "context",
        "ended",
        "error",
        "method",
        "reason",
        "request_id",
        "rides",
        "runs",
        "span",
        "streams",
        "timed",
    )

    def __init__(
        self,
        method: str,
        request_id: str,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        streams: bool = False,
        timed: bool = False,
    ) -> None:
        self.method = method
        """The full name of the RPC, as `/package.Service/Method`, or `UNKNOWN_METHOD`."""
        self.request_id = request_id
        self.streams = streams
        """Whether it lasts for as long as its caller likes."""
        self.timed = timed
        """Whether its caller wants to know where the time went."""
        self.context = context
        self.caller = ""
        """The id of its API key, or `user-5`; empty while it is not known."""
        self.runs = True
        self.code = grpc.StatusCode.OK
        self.reason = ""
        """The reason of a refusal (`ErrorInfo.reason`)."""
        self.error: Exception | None = None
        """What ended it, if that was an exception; known to its observers while they are told of the end."""
        self.rides: list[Ride] = []
        """The work that was done for it, or the first `MOST_RIDES`."""
        self.span: object = None
        """Its span, if it is traced."""
        self.began = self.ended = perf_counter()
        _CALL.set(self)
        for observer in observers:
            observer.call_began(self)

    def ride(self, work: Work, asked: float) -> None:
        """Note that work is done for this call, which has waited for it since `asked`."""
        if len(self.rides) < MOST_RIDES:
            self.rides.append(Ride(work, asked))
            if self.span is not None:
                work.riders.append(Rider(self.span, asked))

    def end(self, code: grpc.StatusCode, error: Exception | None = None) -> None:
        """Note how the call ended."""
        self.runs = False
        self.code = code
        self.error = error
        self.ended = perf_counter()
        for observer in observers:
            observer.call_ended(self)
        self.error = None  # its traceback has the call, and would keep both

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


class Observer:
    """Sees calls and work begin and end. What it does is on every call's way, and must neither wait nor raise."""

    def call_began(self, call: Call) -> None:
        """See a call before it is admitted; its caller is not known yet."""

    def call_ended(self, call: Call) -> None:
        """See a call after its answer was made."""

    def work_began(self, work: Work) -> None:
        """See work that begins."""

    def work_ended(self, work: Work) -> None:
        """See work that has ended."""


observers: list[Observer] = []
"""Those of this process."""

_CALL: ContextVar[Call | None] = ContextVar("call", default=None)
_WORK: ContextVar[Work | None] = ContextVar("work", default=None)

current_call = _CALL.get
"""The call that is served here, if one is."""


current_work = _WORK.get
"""The work that is done here, if some is observed."""


def begin_batch(work: Work) -> None:
    """Do this task's work as `work` from now on, for no call alone."""
    _CALL.set(None)
    _WORK.set(work)


@contextmanager
def working() -> Iterator[Work]:
    """Work in the database for the running call alone, if there is one."""
    call = _CALL.get()
    work = Work(call.method if call else "")
    if call:
        call.ride(work, work.began)
    before = _WORK.set(work)
    try:
        yield work
    finally:
        _WORK.reset(before)
        work.end()
