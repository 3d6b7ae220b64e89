"""Secrets and signatures, as the Standard Webhooks specification has them (https://www.standardwebhooks.com)."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import InvalidArgument

PREFIX: Final = "whsec_"
_SHORTEST, _LONGEST, _NEW = 24, 64, 32


def new_secret() -> bytes:
    """A random secret."""
    return secrets.token_bytes(_NEW)


def shown(secret: bytes) -> str:
    """A secret as its receiver has it."""
    return PREFIX + base64.b64encode(secret).decode()


def parse_secret(text: str) -> bytes:
    """Read a secret of the caller's choice.

    Raises:
        InvalidArgument: it has another form.
    """
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(PREFIX) or not _SHORTEST <= len(secret) <= _LONGEST:
        message = f"secret: must be {PREFIX} and {_SHORTEST} to {_LONGEST} bytes in Base64"
        raise InvalidArgument(ErrorReason.WEBHOOK_SECRET_INVALID, message, metadata={"field": "secret"})
    return secret


def headers(event_id: str, at: datetime, body: bytes, secrets: Iterable[bytes]) -> dict[str, str]:
    """The headers with which an event is sent; the signature has a part for each secret."""
    seconds = str(int(at.timestamp()))
    signed = f"{event_id}.{seconds}.".encode() + body
    digests = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    signature = " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
    return {"webhook-id": event_id, "webhook-timestamp": seconds, "webhook-signature": signature}


def sealed_for(webhook_id: int) -> str:
    """The vault's purpose of a webhook's secrets."""
    return f"secret of webhook {webhook_id}"
