"""The customers that an API key is bound to (docs/rules.md, R77)."""

from collections.abc import Iterable
from typing import NamedTuple, Self


class BoundCustomers(NamedTuple):
    """The customers of a bound key: those that it names, and, if it has a prefix, those whose `external_id` begins with it."""

    external_ids: frozenset[str]
    prefix: str

    @classmethod
    def of(cls, external_ids: Iterable[str], prefix: str) -> Self | None:
        """The binding; None if it names no customer and has no prefix, which is no binding at all."""
        named = frozenset(external_ids)
        return cls(named, prefix) if named or prefix else None

    @property
    def prefix_end(self) -> str:
        """What follows every `external_id` with the prefix, in the order of their characters, which are ASCII."""
        return self.prefix[:-1] + chr(ord(self.prefix[-1]) + 1)

    def allows(self, external_id: str) -> bool:
        """Whether a customer is among them."""
        return external_id in self.external_ids or bool(self.prefix and external_id.startswith(self.prefix))

    def __str__(self) -> str:
        """For people: the ids, and the prefix with an asterisk."""
        return ", ".join([*sorted(self.external_ids), *([f"{self.prefix}*"] if self.prefix else [])])
