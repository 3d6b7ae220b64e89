"""How the lines of a file are written, as its first line shows: what separates the values, and the order of the columns."""

import re
from typing import NamedTuple

NAMES = ("external_id", "score", "preapproved_at")
"""The columns, in the order of a file that does not name them."""

REQUIRED = NAMES[:2]

_NUMBER = re.compile(r"-?[0-9][0-9.,]*")


class Layout(NamedTuple):
    """A file's separator, and the names of its columns. Columns without a name may follow; they are empty in every line."""

    separator: str = ","
    columns: tuple[str, ...] = NAMES

    @property
    def decimal_comma(self) -> bool:
        """Whether amounts are written `1.500,00`, as spreadsheets do that separate the values by `;`."""
        return self.separator == ";"

    @property
    def named(self) -> int:
        """How many columns have a name."""
        return sum(map(bool, self.columns))

    @property
    def least(self) -> int:
        """How many values a line must have."""
        return max(self.columns.index(name) + 1 for name in REQUIRED)

    @property
    def most(self) -> int:
        """How many values a line may have; those without a name must be empty."""
        return max(len(self.columns), len(NAMES))

    def place(self, name: str) -> int | None:
        """The position of a column, from one; None if the file does not have it."""
        return self.columns.index(name) + 1 if name in self.columns else None

    @property
    def description(self) -> str:
        """What a line must have, in words."""
        if self.columns == NAMES:
            return "two or three columns: external_id, score and perhaps preapproved_at"
        return f"the columns that the header names: {', '.join(filter(None, self.columns))}"

    def __str__(self) -> str:
        """As it is stored."""
        return self.separator + ",".join(self.columns)

    @classmethod
    def parse(cls, stored: str) -> "Layout":
        """From what is stored."""
        return cls(stored[0], tuple(stored[1:].split(",")))


class HeaderError(Exception):
    """The first line is a header that names other columns than there are; the message says which."""


def read(line: bytes) -> tuple[Layout, bool]:
    """The layout that a file's first line shows, and whether that line is a header.

    Raises:
        HeaderError: it is a header with wrong names.
    """
    text = line.decode(errors="replace")
    semicolons = _values(text, ";")
    separator = ";" if len(semicolons) in (2, 3) or (_is_header(semicolons) and len(semicolons) > 1) else ","
    values = semicolons if separator == ";" else _values(text, ",")
    if not _is_header(values):
        return Layout(separator), False
    named = max(place for place, value in enumerate(values, 1) if value)
    for problem, names in (
        ("names {}, which is no column", [value for value in values[:named] if value not in NAMES]),
        ("names {} twice", [name for name in NAMES if values.count(name) > 1]),
        ("does not name {}", [name for name in REQUIRED if name not in values]),
    ):
        if names:
            what = problem.format(f'"{names[0][:60]}"')
            raise HeaderError(f"The header {what}; the columns are external_id, score and perhaps preapproved_at.")
    return Layout(separator, tuple(values)), True


def _values(line: str, separator: str) -> list[str]:
    return [value.strip(' \t\r"').lower() for value in line.split(separator)]


def _is_header(values: list[str]) -> bool:
    """Whether a line names columns. A customer may also be called `score`, but that line has a number, too."""
    known = sum(value in NAMES for value in values)
    return known > 1 or (known == 1 and not any(map(_NUMBER.fullmatch, values)))
