"""The values of the admin, and its decisions, without any SQL or HTTP."""

import re
from typing import Final, NamedTuple

from mo_grpc.people.rules import ROLE_SCOPES, Role

USERS: Final = "users"
"""What administrators alone may see and do: accounts, the record of events, the trap."""

EXTERNAL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,59}")


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
        """Whether the role has this scope; `USERS` is the administrators' alone."""
        if scope == USERS:
            return self.role == Role.ADMINISTRATOR
        return scope in ROLE_SCOPES[Role(self.role)]
