"""How often an API key may call, a second and a day, in all workers together, without a query at a call (docs/security.md).

Each worker lets a key's calls through on what it knows, and reports them to the others through the database every second.
What the others have let through meanwhile is taken off its allowance afterwards. So W workers let at most R * (T + 2W) calls
through in T seconds for a rate of R: after a burst at all of them at once, the key waits until it is even. A quota may be
exceeded by the calls of one second.
"""

import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.api_keys import store
from mo_grpc.auth.api_keys.rules import ApiKey
from mo_grpc.db.engine import Database
from mo_grpc.errors import TooManyRequests
from mo_grpc.process.tasks import Tasks

INTERVAL = 1.0
"""Seconds between two exchanges with the other workers."""


class _Allowance:
    """What a key may still do: tokens of a bucket that holds a second's worth, and fewer than none after a burst elsewhere."""

    def __init__(self, rate: int) -> None:
        self.tokens = float(rate)
        self.filled_at = time.monotonic()

    def fill(self, rate: int, now: float) -> None:
        self.tokens = min(float(rate), self.tokens + (now - self.filled_at) * rate)
        self.filled_at = now


class Limits:
    """The calls of the keys that have limits; counts are exchanged while its task runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._allowances: dict[str, _Allowance] = {}
        self._day = _today()
        # Of the day: the calls in all workers as last read, and those of this worker that are still to be reported.
        self._known: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()
        self._reporting: Counter[str] = Counter()

    def start(self, tasks: Tasks) -> None:
        """Exchange the counts with the other workers."""
        tasks.write_behind("limits of API keys", self.exchange, INTERVAL)

    def charge(self, key: ApiKey) -> None:
        """Count a call of a key that has limits.

        Raises:
            TooManyRequests: the key has no more calls at the moment, or today; this one is not counted.
        """
        if key.calls_per_day and self._calls(key.id) >= key.calls_per_day and self._day == _today():
            raise TooManyRequests(
                ErrorReason.KEY_QUOTA_EXCEEDED,
                f"The API key has used up its {key.calls_per_day:,} calls of the day (UTC).",
                _until_tomorrow(),
            )
        if key.calls_per_second:
            allowance = self._allowances.get(key.id) or self._allowances.setdefault(key.id, _Allowance(key.calls_per_second))
            allowance.fill(key.calls_per_second, time.monotonic())
            if allowance.tokens < 1:
                raise TooManyRequests(
                    ErrorReason.KEY_RATE_EXCEEDED,
                    f"The API key may make {key.calls_per_second:,} calls a second.",
                    (1 - allowance.tokens) / key.calls_per_second,
                )
            allowance.tokens -= 1
        self._pending[key.id] += 1

    def _calls(self, key_id: str) -> int:
        return self._known[key_id] + self._reporting[key_id] + self._pending[key_id]

    async def exchange(self) -> None:
        """Report this worker's calls to the others, and read theirs; what cannot be reported now is reported the next time."""
        day, reported = self._day, self._pending
        self._pending, self._reporting = Counter(), reported
        try:
            known = Counter(await self._database.write(lambda connection: store.count_calls(connection, day, reported)))
        except BaseException:  # a server that stops ends what is under way, and reports once more
            self._pending += reported
            raise
        finally:
            self._reporting = Counter()
        for key_id, allowance in self._allowances.items():
            allowance.tokens -= max(0, known[key_id] - self._known[key_id] - reported[key_id])
        self._known = known
        if self._day != (today := _today()):
            # What was let through around midnight counts for the day that ended.
            self._day, self._known = today, Counter()


def _today() -> date:
    return datetime.now(UTC).date()


def _until_tomorrow() -> float:
    now = datetime.now(UTC)
    return (datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC) - now).total_seconds()
