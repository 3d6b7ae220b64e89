"""What a batch does about rows that another transaction has locked."""

from enum import Enum, auto


class Locks(Enum):
    """What a batch does about a row that another transaction has locked."""

    TRY = auto()
    """Wait for a moment, then fail as a whole."""
    SKIP = auto()
    """Answer LOCKED for the commands that need it."""
    WAIT = auto()
    """Wait as long as a statement may."""


class Locked(Enum):
    """A command's result when another transaction holds the lock that it needs."""

    LOCKED = auto()


class LockedError(Exception):
    """A batch failed as a whole, because another transaction holds one of its locks."""
