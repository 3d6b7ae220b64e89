"""What is in the audit log, and how its events are sealed."""

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mo_grpc.crypto import Vault


class Stream(StrEnum):
    """The chains of events; each is appended to under a lock of its own."""

    LOGINS = "logins"
    CHANGES = "changes"
    REFUSALS = "refusals"


class AuditKind(StrEnum):
    """What happened."""

    LOGGED_IN = "logged_in"
    LOGIN_REFUSED = "login_refused"
    LOGGED_OUT = "logged_out"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105 - not a secret

    USER_CREATED = "user_created"
    USER_LOCKED = "user_locked"
    USER_UNLOCKED = "user_unlocked"
    ROLE_CHANGED = "role_changed"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - not a secret
    OTP_ENABLED = "otp_enabled"
    OTP_DISABLED = "otp_disabled"
    SIGNING_KEY_ROTATED = "signing_key_rotated"
    API_KEY_CREATED = "api_key_created"
    API_KEY_LIMITED = "api_key_limited"
    API_KEY_ROTATED = "api_key_rotated"
    API_KEY_REVOKED = "api_key_revoked"
    WEBHOOK_CREATED = "webhook_created"
    WEBHOOK_CHANGED = "webhook_changed"
    WEBHOOK_SECRET_ROTATED = "webhook_secret_rotated"  # noqa: S105 - not a secret
    WEBHOOK_DELETED = "webhook_deleted"

    CALLS_REFUSED = "calls_refused"

    @property
    def stream(self) -> Stream:
        """The chain it belongs to."""
        return _STREAMS.get(self, Stream.CHANGES)


_STREAMS: Final = {
    AuditKind.LOGGED_IN: Stream.LOGINS,
    AuditKind.LOGIN_REFUSED: Stream.LOGINS,
    AuditKind.LOGGED_OUT: Stream.LOGINS,
    AuditKind.REFRESH_TOKEN_REUSED: Stream.LOGINS,
    AuditKind.CALLS_REFUSED: Stream.REFUSALS,
}

MAX_TEXT = 254
"""Characters of an actor, a subject or a value that are kept: some come from whoever calls."""


class Actor(NamedTuple):
    """Who did something (a key's id, `user-5`, or `cli:` and a name), and from which address; empty where it is not known."""

    id: str
    address: str = ""


def operator() -> Actor:
    """Who runs a command on this machine."""
    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # a number without a name, as in a container
        return Actor(f"cli:{os.getuid()}")


class NewAuditEvent(NamedTuple):
    """Something to record."""

    kind: AuditKind
    actor: Actor
    subject: str
    data: Mapping[str, str] = {}


class AuditEvent(NamedTuple):
    """An event of the audit log; in the order of the table's columns."""

    stream: str
    number: int
    at: datetime
    kind: str
    actor: str
    subject: str
    address: str
    data: Mapping[str, str]
    sealed_by: str
    seal: bytes


class End(NamedTuple):
    """Where a stream ends."""

    stream: str
    number: int
    seal: bytes


def chain(vault: "Vault", end: End, events: Sequence[NewAuditEvent], at: datetime) -> list[AuditEvent]:
    """Number and seal the events that follow the end of their stream."""
    sealed: list[AuditEvent] = []
    seal = end.seal
    for number, (kind, actor, subject, data) in enumerate(events, end.number + 1):
        kept = {name: printable(value) for name, value in data.items()}
        event = AuditEvent(
            end.stream, number, at, kind, printable(actor.id), printable(subject), actor.address, kept, vault.name, b""
        )
        seal = _seal(vault, event, seal)
        sealed.append(event._replace(seal=seal))
    return sealed


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """As much of a text as is kept, without control characters: PostgreSQL takes no NUL, and terminals take too much."""
    return "".join(character for character in text[:limit] if character.isprintable())


def faults(vaults: "Mapping[str, Vault]", before: End, events: Sequence[AuditEvent]) -> list[tuple[int, str]]:
    """What is wrong with the events that follow `before`: their numbers, and what."""
    found: list[tuple[int, str]] = []
    first = AuditEvent(before.stream, before.number, datetime.min.replace(tzinfo=UTC), "", "", "", "", {}, "", before.seal)
    for last, event in pairwise((first, *events)):
        vault = vaults.get(event.sealed_by)
        if event.number != last.number + 1:
            found.append((event.number, f"those from {last.number + 1} on are missing"))
        elif vault is None:
            found.append((event.number, "sealed under another SECRET_KEY; SECRET_KEY_FALLBACKS can name it"))
        elif _seal(vault, event, last.seal) != event.seal:
            found.append((event.number, "was changed, or does not follow the one before"))
    return found


def _seal(vault: "Vault", event: AuditEvent, before: bytes) -> bytes:
    """A keyed hash over an event and the seal before it, so whoever lacks SECRET_KEY can make none."""
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    fields = [*event._replace(at=at, data=dict(event.data))[:-1], before.hex()]  # type: ignore[arg-type] # text, for JSON
    return vault.digest(json.dumps(fields, sort_keys=True).encode(), "event")
