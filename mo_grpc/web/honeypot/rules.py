"""How much of an attempt is recorded, and how long an address waits that tries again and again."""

from collections import OrderedDict
from typing import NamedTuple

from mo_grpc.audit_log.rules import printable
from mo_grpc.auth.users.rules import address_subject

FREE_ATTEMPTS = 3
"""Attempts of an address that are answered at once."""

MAX_WAIT = 8.0
"""Seconds that each further one waits at most."""

FORGOTTEN_AFTER = 600.0
"""Seconds without an attempt after which an address counts as new."""

REMEMBERED = 10_000
"""Addresses that are remembered."""

KEPT_OF_AN_ADDRESS = 20
"""Attempts of an address that are recorded until it counts as new."""

KEPT_A_SECOND = 20
KEPT_A_DAY = 20_000
"""Attempts of all addresses that are recorded. Further ones are only counted, so that the disk does not fill up."""


class KeptAttempt(NamedTuple):
    """What is recorded of an attempt."""

    address: str
    user_agent: str
    path: str
    username: str


def attempt(address: str, user_agent: str, path: str, username: str) -> KeptAttempt:
    """Cut to the lengths of the columns, without control characters."""
    return KeptAttempt(address, printable(user_agent, 300), printable(path, 300), printable(username, 150))


def wait(count: int) -> float:
    """For how many seconds the `count`-th attempt of an address waits: none for the first three, then one, two, four, eight."""
    return min(2.0 ** (count - FREE_ATTEMPTS - 1), MAX_WAIT) if count > FREE_ATTEMPTS else 0.0


class AttemptCounter:
    """How often each address has tried; in IPv6, each /64 network, which is what one customer of a provider has."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, address: str, now: float) -> int:
        """Count an attempt; answers how many there have been since the address was forgotten. `now` is in seconds."""
        subject = address_subject(address)
        count, last = self._attempts.pop(subject, (0, now))
        count = 1 if now - last > FORGOTTEN_AFTER else count + 1
        self._attempts[subject] = count, now
        while len(self._attempts) > REMEMBERED:
            self._attempts.popitem(last=False)
        return count


class StorageLimit:
    """Limits how many attempts are recorded."""

    def __init__(self) -> None:
        self._day = self._in_day = self._second = self._in_second = 0

    def take(self, count: int, now: float) -> bool:
        """Whether to record the `count`-th attempt of an address, at `now` in seconds."""
        second, day = int(now), int(now // 86_400)
        if second != self._second:
            self._second, self._in_second = second, 0
        if day != self._day:
            self._day, self._in_day = day, 0
        if count > KEPT_OF_AN_ADDRESS or self._in_second >= KEPT_A_SECOND or self._in_day >= KEPT_A_DAY:
            return False
        self._in_second += 1
        self._in_day += 1
        return True
