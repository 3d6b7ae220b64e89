"""How the pages write money, moments, sizes and the database's numbers for things."""

from datetime import datetime
from decimal import Decimal
from enum import IntEnum

import humanize


def money(amount: Decimal) -> str:
    """An amount with two places."""
    return f"{amount:,.2f}"


def number(count: int) -> str:
    """A whole number."""
    return f"{count:,}"


def day(moment: datetime | None) -> str:
    """The day of a moment; empty if there is none."""
    return f"{moment:%d %b %Y}" if moment else ""


def day_and_time(moment: datetime | None) -> str:
    """A moment; empty if there is none."""
    return f"{moment:%d %b %Y, %H:%M}" if moment else ""


def size(count: int) -> str:
    """So many bytes, in decimal units."""
    return humanize.naturalsize(count)


def words(value: IntEnum) -> str:
    """The name of a status, a role or a reason, as people read it."""
    return value.name.lower().replace("_", " ")


def choices(kind: type[IntEnum]) -> dict[int, str]:
    """The words of all values of a kind, by their numbers."""
    return {int(value): words(value) for value in kind}
