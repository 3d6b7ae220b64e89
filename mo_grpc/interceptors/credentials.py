"""What a call's metadata says of its caller: HTTP credentials (RFC 7617, RFC 6750) and the address it comes from."""

import base64
import binascii
import ipaddress

from mo_grpc.interceptors.base import Context

NO_STORE = (("cache-control", "no-store"),)
"""Initial metadata, and so HTTP headers, of answers with a secret: they are for nobody's cache (RFC 6749, 5.1)."""


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


def client_address(context: Context) -> str:
    """The address of whoever calls; empty if it cannot be told.

    Envoy comes by the private socket, and adds the address that it sees as the last of `x-forwarded-for`; a direct caller's own
    header counts for nothing.
    """
    peer = context.peer()
    if peer.startswith("unix:"):
        hops = [str(value) for key, value in context.invocation_metadata() or () if key == "x-forwarded-for"]
        address = hops[-1].rpartition(",")[2].strip() if hops else ""
    else:
        address = peer.partition(":")[2].rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""
