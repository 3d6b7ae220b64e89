"""Who makes the call that is being served."""

from contextvars import ContextVar
from typing import NamedTuple


class Caller(NamedTuple):
    """The API key's id, and the RPC it calls."""

    id: str
    method: str


_CALLER: ContextVar[Caller] = ContextVar("caller")

caller = _CALLER.get
"""The caller of the running RPC; raises LookupError in an RPC that needs no key."""

set_caller = _CALLER.set
