"""Where events may be sent: to public addresses only, so that nobody reaches the service's own network by way of the service.

A host is resolved once, and the connection is made to the address that was checked: whoever answers another address the second
time gains nothing (DNS rebinding).
"""

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import httpx
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import InvalidArgument

RESOLVE_TIMEOUT = 5.0
"""Seconds that the name of a host may take to be resolved."""

# Threads of its own: whoever's name servers do not answer would hold up all that shares threads with them.
_RESOLVERS: Final = ThreadPoolExecutor(200, "resolver")

# What parsers agree on: visible ASCII, and no backslash, which some take for a slash.
_URL = re.compile(r"[!-\[\]-~]+")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291, section 2.4


class WrongUrl(InvalidArgument):
    """A URL cannot be called."""

    def __init__(self, why: str) -> None:
        super().__init__(ErrorReason.WEBHOOK_URL_INVALID, f"url: {why}", metadata={"field": "url"})


class ForbiddenAddress(InvalidArgument):
    """A URL leads to an address that is not public."""

    def __init__(self, host: str) -> None:
        message = f"url: '{host}' has an address that is not public"
        super().__init__(ErrorReason.WEBHOOK_ADDRESS_FORBIDDEN, message, metadata={"field": "url"})


class Target(NamedTuple):
    """A URL, and the addresses at which it may be called."""

    url: httpx.URL
    addresses: list[str]


def parse_url(text: str, *, allow_private: bool) -> httpx.URL:
    """Read a webhook's URL.

    Raises:
        WrongUrl: it is none, or none that is called.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):  # a port that is no number
        raise WrongUrl("is no URL") from None
    if not _URL.fullmatch(text):
        raise WrongUrl("must be of visible ASCII characters, without a backslash; encode others")
    if url.scheme != "https" and not (allow_private and url.scheme == "http"):
        raise WrongUrl("must begin with https://")
    if not url.host or url.userinfo or url.fragment:
        raise WrongUrl("must have a host, and no user name or fragment")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise WrongUrl("must have a port of 1 to 65535")
    return url


async def resolve(text: str, *, allow_private: bool) -> Target:
    """Find the addresses of a webhook's URL.

    Raises:
        WrongUrl: it cannot be called, or its host has no address.
        ForbiddenAddress: one of its addresses is not public.
    """
    url = parse_url(text, allow_private=allow_private)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, _lookup, url.host, port)
    except (OSError, TimeoutError, UnicodeError):
        raise WrongUrl(f"'{url.host}' has no address") from None
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if not allow_private and not all(map(is_public, addresses)):
        raise ForbiddenAddress(url.host)
    return Target(url, addresses)


def is_public(text: str) -> bool:
    """Whether an address is one of the internet's, and not a private, local, shared or special one, however it is written."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return address in _GLOBAL_UNICAST and address.is_global and address.sixtofour is None
        address = address.ipv4_mapped
    return address.is_global and not address.is_multicast


def _lookup(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
