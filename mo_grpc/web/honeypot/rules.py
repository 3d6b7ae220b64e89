"""How much of an attempt is kept, and how long repeaters wait."""

import time
from collections import OrderedDict
from typing import NamedTuple

from mo_grpc.events.rules import printable

FREE_ATTEMPTS = 3
"""Attempts of an address that are answered at once."""

MAX_WAIT = 8.0
"""Seconds that each further one waits at most."""

FORGOTTEN_AFTER = 600.0
"""Seconds of silence after which an address is a new one."""

REMEMBERED = 10_000
"""Addresses that are remembered."""

STORED_A_SECOND = 20
"""Attempts that are stored; further ones are counted, so that nobody fills the disk."""


class Attempt(NamedTuple):
    """What is kept of an attempt."""

    address: str
    user_agent: str
    path: str
    username: str


def attempt(address: str, user_agent: str, path: str, username: str) -> Attempt:
    """As much of it as fits, without what no terminal should show."""
    return Attempt(address, printable(user_agent, 300), printable(path, 300), printable(username, 150))


class Patience:
    """How long the next attempt of each address waits."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Count an attempt; answers for how many seconds it waits: none, then one, two, four, eight."""
        now = time.monotonic()
        count, last = self._attempts.pop(address, (0, now))
        count = 1 if now - last > FORGOTTEN_AFTER else count + 1
        self._attempts[address] = count, now
        while len(self._attempts) > REMEMBERED:
            self._attempts.popitem(last=False)
        return min(2.0 ** (count - FREE_ATTEMPTS - 1), MAX_WAIT) if count > FREE_ATTEMPTS else 0.0
