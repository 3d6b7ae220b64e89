"""Who makes the call that is being served."""

from contextvars import ContextVar
from typing import NamedTuple

from mo_grpc.errors import NotFound, PermissionDenied, Resource
from mo_grpc.rpc.access import ACCOUNT
from mo_grpc.rpc.binding import BoundCustomers


class UserSession(NamedTuple):
    """A user's session."""

    user_id: int
    id: str
    scopes: frozenset[str]


class Caller(NamedTuple):
    """The API key's id, or `user-5`, the RPC that is called, and all that the caller may do; for a user, the session too.

    `customers` are those that the API key is bound to; None means that it is not bound.
    """

    id: str
    method: str
    scopes: frozenset[str]
    session: UserSession | None = None
    customers: BoundCustomers | None = None


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


def require_customer(customer_external_id: str, resource: Resource, external_id: str) -> None:
    """Hide a customer, or something of a customer, from a caller whose API key is bound to others (docs/rules.md, R77).

    Raises:
        NotFound: it is hidden: the resource with the `external_id` does not exist for this caller.
    """
    bound = caller().customers
    if bound is not None and not bound.allows(customer_external_id):
        raise NotFound(resource, external_id)
