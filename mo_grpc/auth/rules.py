"""The values of an API key: its format, its scopes, and when it counts (DESIGN §5)."""

import binascii
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import NamedTuple, Self

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
)
"""What a key gets by default: every business scope, and none over keys and users."""


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

    def fits(self, credential: Credential) -> bool:
        """Whether the secret is this key's. Compares in constant time."""
        return hmac.compare_digest(self.secret_hash, credential.secret_hash)

    def counts(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class NewApiKey(NamedTuple):
    """The command to store a key."""

    credential: Credential
    name: str
    scopes: frozenset[str]
    expires_at: datetime | None


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    value = binascii.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
