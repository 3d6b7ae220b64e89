"""A line in the log for each call that went wrong or took long, and for some of the others."""

import asyncio
import logging
import random
from collections import Counter

import grpc
import structlog
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import ServiceError
from mo_grpc.telemetry.calls import Call, Observer
from mo_grpc.telemetry.timing import timing
from mo_grpc.telemetry.traces import trace_id

GOOD_PER_SECOND = 10
"""Lines a second for calls that went well, unless the settings say which part of these is logged."""

STRANGERS_PER_SECOND = 50
"""Lines a second for refusals that cost their callers nothing; the others are counted."""

_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
_TROUBLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_WELL = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
_OVERLOADED = ErrorReason.Name(ErrorReason.OVERLOADED)
_STOPPING = ErrorReason.Name(ErrorReason.SERVER_STOPPING)
_GRPCS_OWN = "/grpc."
"""What the methods of health and reflection begin with. Envoy checks the health several times a second."""


class CallLog(Observer):
    """Writes the lines of one worker. They have no value of a request or an answer: no amount, no id of a customer, no key."""

    def __init__(self, worker: int, ratio: float | None, slow_seconds: float) -> None:
        """Begin to log.

        Args:
            worker: its number, which is in each line.
            ratio: from 0 to 1; None means the first `GOOD_PER_SECOND` of each second.
            slow_seconds: after so many, a call is slow; 0 means never.
        """
        self._log = structlog.get_logger().bind(worker=worker)
        self._ratio = ratio
        self._slow = slow_seconds or float("inf")
        self._good = _PerSecond(GOOD_PER_SECOND)
        self._strangers = _PerSecond(STRANGERS_PER_SECOND)
        self._left_out: Counter[str] = Counter()
        self._logs_info = self._log.is_enabled_for(logging.INFO)

    def call_ended(self, call: Call) -> None:
        """Write the line of a call, if it gets one."""
        slow = call.ended - call.began >= self._slow and not call.streams
        level = _level(call, slow)
        if level == logging.INFO and not self._logs_info:
            return
        if call.code in _WELL and not slow:
            if call.method.startswith(_GRPCS_OWN) or not self._picks(call):
                return
        elif _is_free(call) and not self._strangers.take(call.ended):
            self._leave_out(call)
            return
        self._log.log(level, "call", **self._line(call, slow))

    def _picks(self, call: Call) -> bool:
        if self._ratio is None:
            return self._good.take(call.ended)
        return random.random() < self._ratio  # noqa: S311 - not a secret

    def _line(self, call: Call, slow: bool) -> dict[str, object]:
        line: dict[str, object] = {
            "method": call.method,
            "code": call.code.name,
            "duration_ms": round(call.seconds * 1000, 2),
            "request_id": call.request_id,
        }
        optional = {"caller": call.caller, "reason": call.reason, "trace_id": trace_id(call)}
        line |= {name: value for name, value in optional.items() if value}
        if call.rides:
            line["batch_size"] = max(ride.work.size for ride in call.rides)
        if slow:
            line["timing_ms"] = {name: round(each, 2) for name, each in timing(call, call.ended).items()}
        if call.error and not isinstance(call.error, ServiceError):
            line["exc_info"] = call.error
        elif call.error and call.code in _TROUBLE and (cause := call.error.__cause__):
            line["cause"] = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
        return line

    def _leave_out(self, call: Call) -> None:
        if not self._left_out:
            asyncio.get_running_loop().call_later(1.0, self._tell_left_out)
        self._left_out[call.code.name] += 1

    def _tell_left_out(self) -> None:
        self._log.warning("calls not logged", count=self._left_out.total(), codes=dict(self._left_out))
        self._left_out.clear()


class _PerSecond:
    """Allows so many in each second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._second = 0

    def take(self, now: float) -> bool:
        """Whether there is one left at the time `now`."""
        if (second := int(now)) != self._second:
            self._second, self._left = second, self._most
        self._left -= 1
        return self._left >= 0


def _level(call: Call, slow: bool) -> int:
    if call.code in _FAULTS:
        return logging.ERROR
    if call.reason == _OVERLOADED or (call.code in _TROUBLE and call.reason != _STOPPING):
        return logging.WARNING
    return logging.WARNING if slow else logging.INFO


def _is_free(call: Call) -> bool:
    """Whether anybody could make any number of such calls: by a stranger, or by a caller who has used up a limit."""
    return call.code not in _FAULTS and (not call.caller or call.code is grpc.StatusCode.RESOURCE_EXHAUSTED)
