"""How often the random tests are repeated: once with `make test`, for as long as asked with `make soak`."""

import time
from collections.abc import Iterator

import pytest


class Rounds:
    """The seeds of the rounds."""

    def __init__(self, seed: int, minutes: float) -> None:
        self._seed = seed
        self._minutes = minutes

    def __iter__(self) -> Iterator[int]:
        end = time.monotonic() + self._minutes * 60
        yield self._seed
        while time.monotonic() < end:
            self._seed += 1
            yield self._seed

    def tell(self, what: str) -> None:
        """Say how far it has come, where somebody waits for it."""
        if self._minutes:
            print(f"\n{what}", end="", flush=True)


def add_options(parser: pytest.Parser) -> None:
    """The options of `make soak`."""
    parser.addoption("--seed", type=int, default=1, help="the seed of the first round of random histories")
    parser.addoption("--minutes", type=float, default=0, help="how long each test of random histories is repeated")
