"""The values of a user, and the decisions about logins, as pure functions."""

import hashlib
import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES
from mo_grpc.auth.users.common_passwords import COMMON
from mo_grpc.errors import FieldViolation, InvalidFields, PreconditionFailed, TooManyRequests, Unauthenticated
from mo_grpc.rpc.access import ACCESS, ACCOUNT, BASIC, PUBLIC

MIN_PASSWORD = 12
"""Characters; NIST SP 800-63B asks for 8, and for 15 where the password is the only factor."""

MAX_PASSWORD = 128
"""Characters: room for any passphrase, and a bound to the work."""

MIN_DIFFERENT = 5
"""Different characters; fewer are a repetition or a short sequence."""

# What RFC 7617 can carry as a user name, and nothing that would need quoting anywhere.
_EMAIL = re.compile(r"[^\s@:\"<>\x00-\x1f\x7f]+@[^\s@:\"<>\x00-\x1f\x7f]+")
_MAX_EMAIL = 254


class Role(IntEnum):
    """What a user may do; the numbers are those of the database."""

    VIEWER = 1
    OPERATOR = 2
    ADMINISTRATOR = 3


ROLE_SCOPES: Final = {
    Role.VIEWER: frozenset({scope for scope in BUSINESS_SCOPES if scope.endswith(":read")} | {ACCOUNT}),
    Role.OPERATOR: frozenset({*BUSINESS_SCOPES, ACCOUNT}),
    Role.ADMINISTRATOR: frozenset(scope for scope in ACCESS.values() if scope not in (PUBLIC, BASIC)),
}
"""From a role to its scopes: reading all business, all business, and everything."""


class User(NamedTuple):
    """A user as stored; the fields are in the order of the table's columns."""

    id: int
    email: str
    first_name: str
    last_name: str
    role: int
    staff: bool
    password_hash: str
    must_change_password: bool
    locked_at: datetime | None
    otp_secret: bytes | None
    otp_enabled_at: datetime | None
    otp_last_step: int
    last_login_at: datetime | None
    password_changed_at: datetime
    created_at: datetime
    updated_at: datetime

    def __repr__(self) -> str:
        # Hashes stay out of tracebacks and logs.
        return f"User({self.id})"


class UserStatus(NamedTuple):
    """What a user may do now."""

    id: int
    role: int
    locked: bool


class NewUser(NamedTuple):
    """The command to create a user."""

    email: str
    first_name: str
    last_name: str
    role: Role
    staff: bool
    password_hash: str
    must_change_password: bool

    def __repr__(self) -> str:
        return f"NewUser({self.email!r})"


class LoginAttempt(NamedTuple):
    """What somebody presents to log in: `code` and `new_password` may be empty."""

    email: str
    password: str
    code: str
    new_password: str
    address: str

    def __repr__(self) -> str:
        return f"LoginAttempt({self.email!r}, address={self.address!r})"


def normal_email(email: str) -> str:
    """An e-mail as it is stored and compared; empty if it is none."""
    normal = unicodedata.normalize("NFKC", email).strip().lower()
    return normal if len(normal) <= _MAX_EMAIL and _EMAIL.fullmatch(normal) else ""


def normal_password(password: str) -> str:
    """A password as it is hashed: the same, however the keyboard composes its characters (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", password)


def password_faults(password: str, email: str) -> list[FieldViolation]:
    """What is wrong with a new password (NIST SP 800-63B: length and a list of the common ones, no composition rules)."""
    normal = normal_password(password)
    folded = normal.casefold()
    if not MIN_PASSWORD <= len(normal) <= MAX_PASSWORD:
        fault = f"must have {MIN_PASSWORD} to {MAX_PASSWORD} characters"
    elif folded in (email, email.partition("@")[0]):
        fault = "must not be the e-mail"
    elif folded in COMMON or len(set(folded)) < MIN_DIFFERENT:
        fault = "is among those that are tried first; choose another"
    else:
        return []
    return [FieldViolation("new_password", fault)]


def reused_password() -> list[FieldViolation]:
    """What is wrong with a new password that is the old one."""
    return [FieldViolation("new_password", "must be another than the old one")]


def malformed_code(expected: str) -> InvalidFields:
    """Refuse what cannot be a code, before it counts as an attempt: it says nothing about anybody."""
    return InvalidFields([FieldViolation("code", f"must be {expected}")])


def fingerprint(user: User) -> str:
    """What changes whenever the password or the codes do; it says nothing about either."""
    seen = (user.id, user.password_hash, user.otp_secret)
    return hashlib.sha256(repr(seen).encode()).hexdigest()


class Backoff(NamedTuple):
    """Exponential back-off: `free` failures cost no wait, each further one doubles it; one is forgiven at intervals."""

    free: int
    forgiven_every: float


ACCOUNT_BACKOFF = Backoff(5, 3600)
ADDRESS_BACKOFF = Backoff(100, 10)
MAX_WAIT = 900.0
"""Seconds: whoever forgot a password is not shut out for longer at a time by somebody who guesses."""


class Failures(NamedTuple):
    """The failures of a subject as stored."""

    subject: str
    failures: int
    last_at: datetime


def decayed(failures: Failures, backoff: Backoff, now: datetime) -> int:
    """How many failures count still."""
    return max(0, failures.failures - int((now - failures.last_at).total_seconds() / backoff.forgiven_every))


def wait(failures: Failures, backoff: Backoff, now: datetime) -> float:
    """How many seconds the next attempt has to wait."""
    over = decayed(failures, backoff, now) - backoff.free
    if over < 0:
        return 0.0
    return max(0.0, min(2.0 ** min(over, 20), MAX_WAIT) - (now - failures.last_at).total_seconds())


def account_subject(email: str) -> str:
    """The subject of an account's failures; also where there is no such account, so that both behave alike."""
    return f"account {hashlib.sha256(email.encode()).hexdigest()}"


def address_subject(address: str) -> str:
    """The subject of an address's failures; of IPv6, a customer has a /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return f"address {parsed.ipv4_mapped}"
        return f"address {ipaddress.ip_network((parsed, 64), strict=False)}"
    return f"address {parsed}"


def backoff_of(subject: str) -> Backoff:
    """The back-off of a subject."""
    return ACCOUNT_BACKOFF if subject.startswith("account ") else ADDRESS_BACKOFF


def refused_for(now: datetime, failures: Iterable[Failures]) -> float:
    """How many seconds an attempt has to wait for the most failed of its subjects."""
    return max(wait(each, backoff_of(each.subject), now) for each in failures)


def credentials_invalid() -> Unauthenticated:
    """Refuse a login, without telling why."""
    return Unauthenticated(ErrorReason.CREDENTIALS_INVALID, "The e-mail, the password or the code is not right.")


def too_many_attempts(seconds: float) -> TooManyRequests:
    """Refuse a login before looking at it."""
    return TooManyRequests(ErrorReason.TOO_MANY_ATTEMPTS, "Too many attempts failed; please wait.", seconds)


def password_change_required(email: str) -> PreconditionFailed:
    """Refuse a login whose password was right, until there is a new one."""
    message = "The password must be changed: log in again and send a new_password along."
    return PreconditionFailed(ErrorReason.PASSWORD_CHANGE_REQUIRED, message, email)


def otp_already_enabled(email: str) -> PreconditionFailed:
    """Refuse a second enrolment."""
    return PreconditionFailed(ErrorReason.OTP_ALREADY_ENABLED, "One-time codes are in use already; disable them first.", email)


def otp_not_enabled(email: str) -> PreconditionFailed:
    """Refuse to confirm or disable what is not there."""
    return PreconditionFailed(ErrorReason.OTP_NOT_ENABLED, "There are no one-time codes to confirm or disable.", email)


class OtpRequired(Exception):
    """The login waits for a one-time code."""

    def __init__(self, user: User) -> None:
        super().__init__("a one-time code is wanted")
        self.user = user
