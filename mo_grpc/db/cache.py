"""Rows of the database that a server has in memory, so that checking a caller costs no query."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from enum import Enum, auto
from typing import TypeVar

from mo_grpc.errors import Unavailable

T = TypeVar("T")

MAX_AGE = 10.0
"""Seconds without contact to the database after which nothing in memory is trusted any more."""

LOOKUP_INTERVAL = 0.05
"""Seconds between two look-ups of unknown ids, which anybody can invent: a flood of them costs 20 queries a second at most."""

LATELY = timedelta(minutes=1)
"""How far back a check for lost notifications reads: longer than the interval, and than any transaction of the service."""


class Look(Enum):
    """What to read again without a notification."""

    ALL = auto()
    """Everything, because it is not known what has changed."""
    LATELY = auto()
    """What was changed within the last `LATELY`."""


class Cache(ABC):
    """Rows in memory, which `mo_grpc.db.listen.follow` keeps current."""

    def __init__(self) -> None:
        self.current_at = -MAX_AGE
        """When the rows were last known to be those of the database, by `time.monotonic`."""
        self._lookup = asyncio.Lock()
        self._next_lookup = 0.0

    @property
    def is_current(self) -> bool:
        """Whether the rows are known to be those of the database, some seconds ago at most."""
        return time.monotonic() - self.current_at < MAX_AGE

    def require_current(self) -> None:
        """Refuse to answer from what may be out of date.

        Raises:
            Unavailable: the database has been out of reach for so long that a revocation may have been missed.
        """
        # Not by `is_current`, which would cost every call a little.
        if time.monotonic() - self.current_at >= MAX_AGE:
            raise Unavailable

    def note_contact(self, current: bool) -> None:
        """Note that everything is current now, or that it is not."""
        self.current_at = time.monotonic() if current else -MAX_AGE

    @abstractmethod
    async def load(self, change: str | Look) -> None:
        """Read again what a notification names, or what a check needs."""

    async def look_up(self, find: Callable[[], T | None], change: str) -> T | None:
        """Find what may have been created just now: load `change`, unless something was looked up a moment ago."""
        async with self._lookup:
            if find() is None and time.monotonic() >= self._next_lookup:
                self._next_lookup = time.monotonic() + LOOKUP_INTERVAL
                await self.load(change)
        return find()
