"""Exponential back-off between the restarts of a process."""

import time

GOOD_LIFE = 30.0
"""Seconds after which a process counts as healthy: its death begins a new series."""

LONGEST_PAUSE = 30.0
"""Seconds between a death and the next start, at most."""


class Restarts:
    """The deaths of one process and of those that took its place."""

    def __init__(self) -> None:
        self._series = 0
        self._died_at = time.monotonic()

    def died(self, lived: float) -> None:
        """Note the death of one that lived for so many seconds."""
        self._died_at = time.monotonic()
        self._series = 0 if lived >= GOOD_LIFE else self._series + 1

    def pause(self, *, longest: float = LONGEST_PAUSE) -> float:
        """Seconds between the last death and the next start: none after a good life, else 1, 2, 4 … `longest`."""
        return min(longest, 2.0 ** (self._series - 1)) if self._series else 0.0

    def due(self, *, longest: float = LONGEST_PAUSE) -> bool:
        """Whether it is time for the next start."""
        return time.monotonic() - self._died_at >= self.pause(longest=longest)
