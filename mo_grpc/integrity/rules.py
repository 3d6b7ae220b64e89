"""What the audit checks, and what it finds."""

from collections.abc import Sequence
from typing import Final, NamedTuple

SHOWN: Final = 20
"""How many broken rows of an invariant are named."""


class Invariant(NamedTuple):
    """What must hold, of which table, and the statement that finds the rows that break it, with a remark on each."""

    name: str
    table: str
    broken: str


class Finding(NamedTuple):
    """What the audit found about one invariant: how many rows it checked, how many break it, and some of these."""

    name: str
    table: str
    checked: int
    broken: int
    rows: Sequence[tuple[str, str]]
