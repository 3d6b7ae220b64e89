"""What is known of a call and of its work in the database, for whoever observes them: metrics, traces, logs.

Without observers it costs a call a few attributes, and no clock is read more than once a phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import NamedTuple

import grpc

UNKNOWN_METHOD = "/unknown/unknown"
"""Stands for the names of all methods that there are not, since a caller may invent any number of them."""


class Phase(NamedTuple):
    """A part of some work; the times are seconds of `perf_counter`."""

    name: str
    began: float
    ended: float


class Work:
    """Work in the database: a batch that many calls ride in, or a transaction of one call.

    Its phases follow each other: of a batch, `pool` (waiting for a connection), `read` (or `lock`, if rows were locked by
    others and it waited for them), `decide`, and `write` (with the COMMIT); of a transaction, `pool`, `statements`, `commit`.
    If it is tried again, there are more of them.
    """

    __slots__ = ("began", "ended", "method", "phase", "phases", "round_trips", "size", "span", "statements")

    def __init__(self, method: str, size: int = 1) -> None:
        """Begin work for `size` calls, the first of which is of `method`; "" is work that no call waits for."""
        self.method = method
        self.size = size
        self.phase = "pool"
        """What is being done, since `ended`; empty when all is done."""
        self.phases: list[Phase] = []
        self.statements = 0
        self.round_trips = 0
        self.span: object = None
        self.began = self.ended = perf_counter()
        for observer in observers:
            observer.work_began(self)

    def begin(self, phase: str) -> None:
        """Note that a phase ends and another one begins."""
        if phase != self.phase:
            began, self.ended = self.ended, perf_counter()
            self.phases.append(Phase(self.phase, began, self.ended))
            self.phase = phase

    def end(self) -> None:
        """Note that the work is done, well or not."""
        self.begin("")
        for observer in observers:
            observer.work_ended(self)


class Ride(NamedTuple):
    """Work that was done for a call, and since when (`perf_counter`) the call had waited for it to begin."""

    work: Work
    asked: float


class Call:
    """A call of an RPC, from when the server begins to look at it until it is answered."""

    __slots__ = (
        "began",
        "caller",
        "code",
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

    def __init__(self, method: str, request_id: str, *, streams: bool = False, timed: bool = False) -> None:
        self.method = method
        """The full name of the RPC, as `/package.Service/Method`, or `UNKNOWN_METHOD`."""
        self.request_id = request_id
        self.streams = streams
        """Whether it lasts for as long as its caller likes."""
        self.timed = timed
        """Whether its caller wants to know where the time went."""
        self.caller = ""
        """The id of its API key, or `user-5`; empty while it is not known."""
        self.runs = True
        self.code = grpc.StatusCode.OK
        self.reason = ""
        """The reason of a refusal (`ErrorInfo.reason`)."""
        self.error: Exception | None = None
        """What ended it, if that was an exception; known to its observers while they are told of the end."""
        self.rides: list[Ride] = []
        self.span: object = None
        self.began = self.ended = perf_counter()
        _CALL.set(self)
        for observer in observers:
            observer.call_began(self)

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
        call.rides.append(Ride(work, work.began))
    before = _WORK.set(work)
    try:
        yield work
    finally:
        _WORK.reset(before)
        work.end()
