"""How much of an attempt is kept, and how long repeaters wait."""

from collections import OrderedDict
from typing import NamedTuple

from mo_grpc.audit_log.rules import printable
from mo_grpc.auth.users.rules import address_subject

FREE_ATTEMPTS = 3
"""Attempts of an address that are answered at once."""

MAX_WAIT = 8.0
"""Seconds that each further one waits at most."""

FORGOTTEN_AFTER = 600.0
"""Seconds of silence after which an address is a new one."""

REMEMBERED = 10_000
"""Addresses that are remembered."""

KEPT_OF_AN_ADDRESS = 20
"""Attempts of an address that are kept until it is forgotten; what it tries after those tells no more."""

KEPT_A_SECOND = 20
KEPT_A_DAY = 20_000
"""Attempts of all addresses that are kept. Further ones are counted alone, so that nobody fills the disk."""


class KeptAttempt(NamedTuple):
    """What is kept of an attempt."""

    address: str
    user_agent: str
    path: str
    username: str


def attempt(address: str, user_agent: str, path: str, username: str) -> KeptAttempt:
    """As much of it as fits, without what no terminal should show."""
    return KeptAttempt(address, printable(user_agent, 300), printable(path, 300), printable(username, 150))


def wait(count: int) -> float:
    """For how many seconds the `count`-th attempt of an address waits: none for the first three, then one, two, four, eight."""
    return min(2.0 ** (count - FREE_ATTEMPTS - 1), MAX_WAIT) if count > FREE_ATTEMPTS else 0.0


class Repeaters:
    """How often each address has tried; of IPv6, each network of a customer (/64)."""

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


class Room:
    """Whether there is room to keep an attempt."""

    def __init__(self) -> None:
        self._day = self._in_day = self._second = self._in_second = 0

    def take(self, count: int, now: float) -> bool:
        """Take room for an address's attempt, the `count`-th of it, at `now` in seconds; false if there is none."""
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
