"""Which address a caller has, by the connection and by what the edge says of it."""

import ipaddress
from functools import lru_cache


@lru_cache(4096)
def believed_address(peer: str | None, forwarded: str, trusted: tuple[str, ...]) -> str:
    """The client's address, by a connection's peer (None for a private socket) and `x-forwarded-for`; empty if unknown."""
    address = _parse(forwarded.rpartition(",")[2].strip()) if is_trusted(peer, trusted) else _parse(peer or "")
    return str(address) if address else ""


@lru_cache(4096)
def is_trusted(peer: str | None, trusted: tuple[str, ...]) -> bool:
    """Whether a connection is from the edge, or by a private socket: what it says of the client is believed."""
    address = _parse(peer) if peer is not None else None
    return peer is None or bool(address and any(address in ipaddress.ip_network(network) for network in trusted))


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
