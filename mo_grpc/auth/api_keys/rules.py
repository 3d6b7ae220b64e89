"""The values of an API key: its format, its scopes, and when it is active (docs/security.md)."""

import binascii
import hashlib
import hmac
import ipaddress
import re
import secrets
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple, Self

from mo.auth.v1 import api_keys_pb2
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import NotFound, PreconditionFailed, Resource
from mo_grpc.formats import field_rules
from mo_grpc.rpc.binding import BoundCustomers

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_LENGTH = 32  # log2(62 ** 32) = 190 bits
_CHECKSUM_LENGTH = 6
_KEY = re.compile(rf"mo_([0-9A-Za-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})")

BUSINESS_SCOPES = (
    "customers:read",
    "customers:write",
    "loans:read",
    "loans:write",
    "payments:read",
    "payments:write",
    "imports:read",
    "imports:write",
    "events:read",
)
"""What a key gets by default: every business scope, and none over keys and users."""


OVERLAP = 86_400
"""Seconds for which the old secret of a rotated key stays valid, unless the request says otherwise."""

MAX_NAME: Final = field_rules(api_keys_pb2.ApiKey, "name").string.max_len
"""Characters of a key's name."""

MAX_CUSTOMERS: Final = field_rules(api_keys_pb2.ApiKey, "customer_external_ids").repeated.max_items
MAX_NETWORKS: Final = field_rules(api_keys_pb2.ApiKey, "allowed_networks").repeated.max_items
MAX_OVERLAP: Final = field_rules(api_keys_pb2.RotateApiKeyRequest, "overlap_seconds").int32.lte
"""Seconds for which the old secret of a rotated key may stay valid."""

MAX_CALLS: Final = 2**31 - 1
"""The largest int32, in which protos and the database hold a key's limits."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOURCE = Resource("API key", "mo.auth.v1.ApiKey", ErrorReason.API_KEY_NOT_FOUND, ErrorReason.ERROR_REASON_UNSPECIFIED)

_NEVER = datetime.max.replace(tzinfo=UTC)


class Credential(NamedTuple):
    """What a caller presents: `mo_<id>_<secret><checksum>`."""

    id: str
    secret: str

    @classmethod
    def generate(cls) -> Self:
        """A new one, from the system's randomness."""
        return cls(_random(_ID_LENGTH), _random(_SECRET_LENGTH))

    @classmethod
    def parse(cls, key: str) -> Self | None:
        """Read a presented key; None if it is not one, or was mistyped: then no database need be asked."""
        match = _KEY.fullmatch(key)
        if match is None or _checksum(f"mo_{match[1]}_{match[2]}") != match[3]:
            return None
        return cls(match[1], match[2])

    def __str__(self) -> str:
        body = f"mo_{self.id}_{self.secret}"
        return body + _checksum(body)

    def __repr__(self) -> str:
        # Secrets stay out of tracebacks and logs.
        return f"Credential({self.id!r}, ...)"

    @property
    def secret_hash(self) -> bytes:
        """What is stored. The secret has 190 random bits, so one SHA-256 is enough, and quick."""
        return hashlib.sha256(self.secret.encode()).digest()


class ApiKey(NamedTuple):
    """An API key as stored."""

    id: str
    name: str
    secret_hash: bytes
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_secret_hash: bytes | None
    previous_expires_at: datetime | None
    number: int
    allowed_networks: tuple[Network, ...]
    calls_per_second: int
    calls_per_day: int
    created_by: str
    customers: BoundCustomers | None
    """The customers that it is bound to; None if it is not bound."""

    @property
    def is_limited(self) -> bool:
        """Whether its calls are counted, because there is a limit to them."""
        return bool(self.calls_per_second or self.calls_per_day)

    def allows(self, address: str) -> bool:
        """Whether it may be used from an address; from one that is unknown only if it may from everywhere."""
        if not self.allowed_networks:
            return True
        return _within(self.allowed_networks, address)

    def valid_until(self, credential: Credential) -> datetime | None:
        """Until when the secret is this key's, if it is; None if it is not. Compares in constant time."""
        presented = credential.secret_hash
        now_valid = hmac.compare_digest(self.secret_hash, presented)
        once_valid = hmac.compare_digest(self.previous_secret_hash or bytes(32), presented)
        if now_valid:
            return self.expires_at or _NEVER
        return self.previous_expires_at if once_valid else None

    def is_active(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyLimits(NamedTuple):
    """From where a key may be used, and how often; 0 is without a limit, and no networks are all of them."""

    allowed_networks: tuple[Network, ...] = ()
    calls_per_second: int = 0
    calls_per_day: int = 0


class NewApiKey(NamedTuple):
    """The command to store a key."""

    credential: Credential
    name: str
    scopes: frozenset[str]
    expires_at: datetime | None
    limits: KeyLimits = KeyLimits()
    created_by: str = ""
    """The actor that made it, as events name it."""
    customers: BoundCustomers | None = None


class Rotation(NamedTuple):
    """The command to give a key another secret, while the old one stays valid for so many seconds."""

    credential: Credential
    overlap_seconds: int


def parse_network(text: str) -> Network:
    """Read a network in CIDR notation (RFC 4632), or a single address.

    Raises:
        ValueError: it is neither, or has bits to the right of its prefix.
    """
    return ipaddress.ip_network(text)


def not_found(key_id: str) -> NotFound:
    """Refuse what needs a key that there is not."""
    return NotFound(RESOURCE, key_id)


def revoked(key_id: str) -> PreconditionFailed:
    """Refuse to rotate a key that is revoked."""
    message = f"The API key {key_id} is revoked, for good; make another."
    return PreconditionFailed(ErrorReason.API_KEY_REVOKED, message, key_id, {"id": key_id})


@lru_cache(4096)
def _within(networks: tuple[Network, ...], address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    return any(parsed in network for network in networks)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    value = binascii.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
