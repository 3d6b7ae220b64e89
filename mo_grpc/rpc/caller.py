"""Who makes the call that is being served."""

from contextvars import ContextVar
from typing import NamedTuple

from mo_grpc.errors import PermissionDenied
from mo_grpc.rpc.access import ACCOUNT


class UserSession(NamedTuple):
    """A user's session."""

    user_id: int
    id: str
    scopes: frozenset[str]


class Caller(NamedTuple):
    """The API key's id, or `user-5`, the RPC that is called, and all that the caller may do; for a user, the session too."""

    id: str
    method: str
    scopes: frozenset[str]
    session: UserSession | None = None


_CALLER: ContextVar[Caller] = ContextVar("caller")

caller = _CALLER.get
"""The caller of the running RPC; raises LookupError in an RPC that needs no key."""

set_caller = _CALLER.set


def known_caller() -> Caller | None:
    """The caller of the running RPC, if it has one and that is known already."""
    return _CALLER.get(None)


def user_session() -> UserSession:
    """The session of the running RPC's access token.

    Raises:
        PermissionDenied: the call carries an API key instead.
    """
    session = caller().session
    if session is None:
        raise PermissionDenied(ACCOUNT)
    return session
