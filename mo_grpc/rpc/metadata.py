"""What a call's metadata says of its caller: HTTP credentials (RFC 7617, RFC 6750) and the address it comes from."""

import base64
import binascii
import re

from mo_grpc.rpc.addresses import believed_address, is_trusted
from mo_grpc.rpc.context import Context

REQUEST_ID = "x-request-id"
"""By what an answer, the lines of the logs and the events of a call are found."""

NO_STORE = (("cache-control", "no-store"),)
"""Initial metadata, and so HTTP headers, of answers with a secret: they are for nobody's cache (RFC 6749, 5.1).

To be sent last: a refusal that comes after initial metadata can bring no HTTP headers of its own, such as `retry-after`.
"""


_UNSAFE = re.compile(r"[^A-Za-z0-9._:~-]")


def safe_id(text: str) -> str:
    """As much of a request id that a caller sent as is used: what needs no escaping anywhere."""
    return _UNSAFE.sub("", text[:64])


def credentials(context: Context, header: str, scheme: str) -> str | None:
    """What follows the name of the scheme in the header; None if there is none of that scheme."""
    for key, value in context.invocation_metadata() or ():
        if key == header and isinstance(value, str):
            name, _, rest = value.partition(" ")
            if name.lower() == scheme:
                return rest.strip()
    return None


def basic(context: Context, header: str) -> tuple[str, str] | None:
    """A user name and a password, empty ones if they cannot be read; None if there are none."""
    presented = credentials(context, header, "basic")
    if presented is None:
        return None
    try:
        name, _, password = base64.b64decode(presented, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return name, password


class Addresses:
    """Tells the address of whoever calls.

    Envoy comes by the private socket, or from one of the networks `trusted`, and says in the last of `x-forwarded-for` which
    address it sees; from any other peer that header is ignored.
    """

    def __init__(self, trusted: tuple[str, ...] = ()) -> None:
        self._trusted = trusted

    def __call__(self, context: Context) -> str:
        """The address; empty if it is not known."""
        hops = [str(value) for key, value in context.invocation_metadata() or () if key == "x-forwarded-for"]
        return believed_address(_peer(context), hops[-1] if hops else "", self._trusted)

    def is_edge(self, context: Context) -> bool:
        """Whether it is Envoy that calls, or the web server: others do not reach the private socket."""
        return is_trusted(_peer(context), self._trusted)


def _peer(context: Context) -> str | None:
    """The address of the connection; None for the private socket."""
    kind, _, rest = context.peer().partition(":")
    return None if kind == "unix" else rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
