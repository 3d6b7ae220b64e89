"""One-time codes (TOTP, RFC 6238) and recovery codes, as pure functions over the vault's secrets."""

import hmac
import io
import secrets
import unicodedata
from datetime import datetime
from typing import NamedTuple

import pyotp
import segno

from mo_grpc.crypto import Vault

ISSUER = "MO over gRPC"
STEP = 30
"""Seconds that a code is shown."""

DIGITS = 6

DRIFT = 1
"""Steps that a phone's clock may be off, either way."""

RECOVERY_CODES = 10
_GROUPS, _GROUP = 4, 4
_ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"  # none that is mistaken for another; 31 ** 16 is 79 bits


class Enrollment(NamedTuple):
    """A new secret, in the three forms in which an app takes it."""

    secret: str
    uri: str
    qr_code_png: bytes

    def __repr__(self) -> str:
        return "Enrollment(...)"


def enroll(email: str) -> Enrollment:
    """Make a new secret for a user."""
    secret = pyotp.random_base32()
    uri = pyotp.TOTP(secret).provisioning_uri(name=email, issuer_name=ISSUER)
    image = io.BytesIO()
    segno.make(uri, error="m").save(image, kind="png", scale=5)
    return Enrollment(secret, uri, image.getvalue())


def accepted_step(secret: str, code: str, last_step: int, now: datetime) -> int | None:
    """The step whose code this is, if it is newer than the last accepted: each code is accepted once (RFC 6238, 5.2)."""
    totp = pyotp.TOTP(secret)
    current = int(now.timestamp()) // STEP
    found = None
    for step in range(current - DRIFT, current + DRIFT + 1):
        # All are compared, in constant time.
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode()) and step > last_step:
            found = step
    return found


def normal_code(code: str) -> str:
    """A code as it is compared, however it was typed or pasted: apps show `123 456`, and keyboards have digits of their own.

    Empty if it is neither six digits nor as long as a recovery code.
    """
    letters = (character for character in unicodedata.normalize("NFKC", code) if character.isalnum())
    plain = "".join(str(unicodedata.decimal(letter, letter)) for letter in letters).upper()
    return plain if plain.isascii() and (is_app_code(plain) or is_recovery_code(plain)) else ""


def is_app_code(normal: str) -> bool:
    """Whether it is one that the app shows."""
    return len(normal) == DIGITS and normal.isdecimal()


def is_recovery_code(normal: str) -> bool:
    """Whether it has the length of a recovery code."""
    return len(normal) == _GROUPS * _GROUP


def recovery_codes() -> list[str]:
    """Make new recovery codes."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS * RECOVERY_CODES))
    return ["-".join(code) for code in zip(*[groups] * _GROUPS, strict=True)]


def recovery_hash(vault: Vault, user_id: int, code: str) -> bytes:
    """What is stored of a recovery code; keyed, so that a stolen database does not suffice to guess."""
    return vault.digest(*_hashed(user_id, code))


def recovery_hashes(vault: Vault, user_id: int, code: str) -> list[bytes]:
    """What may be stored of a recovery code: under the key of now, or one before."""
    return vault.digests(*_hashed(user_id, code))


def _hashed(user_id: int, code: str) -> tuple[bytes, str]:
    return normal_code(code).encode(), f"recovery code of user {user_id}"


def sealed_for(user_id: int) -> str:
    """The vault's purpose of a user's secret."""
    return f"one-time codes of user {user_id}"
