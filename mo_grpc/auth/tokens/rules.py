"""The values of signing keys and tokens, and the form of the JWTs (RFC 7519, 8725, 9068), without any SQL."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import Unauthenticated

ALGORITHM: Final = "EdDSA"
ISSUER: Final = "mo"
MAX_TOKEN_LENGTH = 2048


class TokenKind(NamedTuple):
    """A kind of JWT: neither passes for the other, by `typ` and by `aud` (RFC 8725, 3.11 and 3.12)."""

    typ: str
    audience: str


ACCESS_TOKEN: Final = TokenKind("at+jwt", "mo")
CHALLENGE: Final = TokenKind("otp+jwt", "mo-otp")


class KeyPair(NamedTuple):
    """A signing key as stored: the private half is encrypted."""

    kid: str
    public_key: bytes
    private_key: bytes
    valid_until: datetime | None

    def __repr__(self) -> str:
        return f"KeyPair({self.kid!r})"


class Claims(NamedTuple):
    """What a JWT says that was found genuine."""

    kid: str
    user_id: int
    about: str
    """The session of an access token; a challenge's fingerprint of the user."""
    issued_at: datetime
    expires_at: datetime


def new_key_pair() -> tuple[str, bytes, bytes]:
    """Make a key pair: its id, and the raw bytes of its public and private halves."""
    private = Ed25519PrivateKey.generate()
    return secrets.token_urlsafe(9), private.public_key().public_bytes_raw(), private.private_bytes_raw()


def sealed_for(kid: str) -> str:
    """The vault's purpose of a private key."""
    return f"signing key {kid}"


def sign(kind: TokenKind, kid: str, private_key: bytes, user_id: int, about: str, expires_at: datetime, now: datetime) -> str:
    """Make a JWT."""
    payload = {
        "iss": ISSUER,
        "aud": kind.audience,
        "sub": str(user_id),
        "sid": about,
        "iat": int(now.timestamp()),
        "exp": int(expires_at.timestamp()),
        "jti": secrets.token_urlsafe(12),
    }
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    return jwt.encode(payload, key, ALGORITHM, headers={"typ": kind.typ, "kid": kid})


def key_id(token: str) -> str | None:
    """The id of the key that a token says it is signed with; None if it is no token of ours at all."""
    if len(token) > MAX_TOKEN_LENGTH:
        return None
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        return None
    kid = header.get("kid")
    return kid if header.get("alg") == ALGORITHM and isinstance(kid, str) else None


def verify(kind: TokenKind, token: str, key: KeyPair) -> Claims | None:
    """Check a JWT's signature, kind, issuer, audience and times; None if anything is wrong."""
    try:
        whole: dict[str, Any] = jwt.decode_complete(
            token,
            Ed25519PublicKey.from_public_bytes(key.public_key),
            algorithms=[ALGORITHM],
            audience=kind.audience,
            issuer=ISSUER,
            options={"require": ["iss", "aud", "sub", "sid", "iat", "exp"], "strict_aud": True},
        )
        payload = whole["payload"]
        if whole["header"].get("typ") != kind.typ:
            return None
        times = (datetime.fromtimestamp(payload[name], UTC) for name in ("iat", "exp"))
        return Claims(key.kid, int(payload["sub"]), str(payload["sid"]), *times)
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, OSError):
        return None


def is_current(claims: Claims, lifetime: timedelta, now: datetime) -> bool:
    """Whether it has not expired; a lifetime that was shortened meanwhile applies at once."""
    return now < min(claims.expires_at, claims.issued_at + lifetime)


def jwk(key: KeyPair) -> dict[str, str]:
    """The public half as others read it (RFC 8037)."""
    public: dict[str, str] = OKPAlgorithm.to_jwk(Ed25519PublicKey.from_public_bytes(key.public_key), as_dict=True)
    return public | {"kid": key.kid, "use": "sig", "alg": ALGORITHM}


def token_invalid() -> Unauthenticated:
    """Refuse a token, without telling why."""
    return Unauthenticated(ErrorReason.TOKEN_INVALID, "The token is not valid.")
