"""The values of the admin, and its decisions, without any SQL or HTTP."""

import re
from collections.abc import Iterable
from decimal import Decimal
from math import ceil, floor
from typing import Final, NamedTuple

from mo_grpc.auth.users.rules import ROLE_SCOPES, Role

ADMINISTRATION: Final = "administration"
"""What administrators alone may see and do: users, the audit log, the honeypot."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_PAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~/-]*(\?[!-~]*)?")


def whole_number(text: str) -> int | None:
    """The number that a text of digits is; None for anything else, or for more digits than any number here has (a bigint's)."""
    return int(text) if _NUMBER.fullmatch(text) else None


def chosen(text: str, choices: Iterable[int]) -> int | None:
    """Which of the choices a text names; None if none."""
    return {str(choice): choice for choice in choices}.get(text)


def used(total: Decimal, line: Decimal) -> str:
    """How much of a credit line is used, in words; what is not quite the whole line, or a little more, is not called 100 %."""
    if not line:
        return "no credit line"
    percent = total * 100 / line
    if 0 < percent < 1:
        return "less than 1 % used"
    return f"{floor(percent) if percent < 100 else ceil(percent):,} % used"


def page_of_ours(text: str) -> str:
    """A path below the admin's, with its query, to go to after a login; empty if the text is none."""
    return text if _PAGE.fullmatch(text) else ""


def is_from(origin: str, host: str) -> bool:
    """Whether an `Origin` header is that of a page of this host (RFC 6454: `scheme://host`, or `null`)."""
    return origin.partition("://")[2] == host


def printable_utf8(text: str) -> str:
    """A text of a form without what PostgreSQL and UTF-8 cannot hold, and no keyboard makes: NUL and halves of surrogates."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()


class Person(NamedTuple):
    """Who is logged in."""

    id: int
    email: str
    first_name: str
    last_name: str
    role: int
    otp: bool

    @property
    def name(self) -> str:
        """What to call them."""
        return f"{self.first_name} {self.last_name}".strip() or self.email

    @property
    def role_name(self) -> str:
        """Their role, in words."""
        return Role(self.role).name.lower()

    def may(self, scope: str) -> bool:
        """Whether the role has this scope; `ADMINISTRATION` is the administrators' alone."""
        if scope == ADMINISTRATION:
            return self.role == Role.ADMINISTRATOR
        return scope in ROLE_SCOPES[Role(self.role)]
