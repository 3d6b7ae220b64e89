"""The values of webhooks, and the decisions about them, without any SQL (docs/rules.md, R87 to R91)."""

from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from mo.errors.v1.error_reason_pb2 import ErrorReason
from mo.webhooks.v1 import webhooks_pb2

from mo_grpc.errors import NotFound, Resource
from mo_grpc.formats import field_rules

MAX_URL: Final = field_rules(webhooks_pb2.Webhook, "url").string.max_len
MAX_DESCRIPTION: Final = field_rules(webhooks_pb2.Webhook, "description").string.max_len

OVERLAP: Final = 86_400
"""Seconds for which events are signed with the secret before the last rotation, too."""

FIRST_DELAY: Final = 5.0
"""Seconds until an event is sent again for the first time, about; each delay is twice as long as the one before."""

LONGEST_DELAY: Final = 6 * 3600.0
"""Seconds between two attempts at most, about."""

MAX_ATTEMPTS: Final = 24
"""How often an event is sent before it is given up: within about three days."""

JITTER: Final = 0.2
"""By which part a delay may differ, so that what failed together is not sent again together."""

FAILING_FOR: Final = 5 * 86_400
"""Seconds without a success after which a webhook is disabled."""

RESOURCE = Resource("webhook", "mo.webhooks.v1.Webhook", ErrorReason.WEBHOOK_NOT_FOUND, ErrorReason.ERROR_REASON_UNSPECIFIED)
ATTEMPT = Resource(
    "attempt",
    "mo.webhooks.v1.WebhookAttempt",
    ErrorReason.WEBHOOK_ATTEMPT_NOT_FOUND,
    ErrorReason.ERROR_REASON_UNSPECIFIED,
)

_GONE = 410


class DisabledReason(IntEnum):
    """Why a webhook is disabled; the numbers are those of the protos and of the database."""

    BY_CALLER = 1
    GONE = 2
    FAILING = 3


class DeliveryState(IntEnum):
    """Whether a webhook has got an event; the numbers are those of the database."""

    PENDING = 1
    RECEIVED = 2
    GIVEN_UP = 3


class Webhook(NamedTuple):
    """A webhook as stored; the secrets are encrypted."""

    id: int
    url: str
    kinds: list[int]
    customer_external_id: str
    description: str
    secret: bytes
    previous_secret: bytes | None
    previous_expires_at: datetime | None
    position: int
    disabled_reason: int
    disabled_at: datetime | None
    failing_since: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime

    def __repr__(self) -> str:
        # A URL may hold a secret, too.
        return f"Webhook({self.id})"


class NewWebhook(NamedTuple):
    """The command to create a webhook, whose id is drawn before its secret is encrypted for it."""

    id: int
    url: str
    kinds: list[int]
    customer_external_id: str
    description: str
    disabled: bool
    secret: bytes
    created_by: str

    def __repr__(self) -> str:
        return f"NewWebhook({self.id})"


class WebhookChange(NamedTuple):
    """The command to change a webhook; what is None stays."""

    url: str | None = None
    kinds: list[int] | None = None
    description: str | None = None
    disabled: bool | None = None

    def __repr__(self) -> str:
        return "WebhookChange(...)"


class Answer(NamedTuple):
    """How an attempt went; the error is empty if the event was received, and the status code is 0 without an answer."""

    attempted_at: datetime
    duration_ms: int
    status_code: int
    error: str
    response: str

    @property
    def succeeded(self) -> bool:
        """Whether the event was received."""
        return not self.error

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more events."""
        return self.status_code == _GONE


class Claim(NamedTuple):
    """A delivery that one process sends now, and the attempts before this one."""

    webhook_id: int
    position: int
    token: str
    attempts: int


class Outcome(NamedTuple):
    """What comes of an attempt: its delivery is over, or sent again after so many seconds."""

    claim: Claim
    event_id: str
    answer: Answer
    state: DeliveryState
    delay: float | None


class Attempt(NamedTuple):
    """An attempt as stored."""

    id: int
    webhook_id: int
    event_id: str
    position: int
    number: int
    attempted_at: datetime
    duration_ms: int
    status_code: int
    error: str
    response: str
    next_attempt_at: datetime | None
    given_up: bool


def outcome(claim: Claim, event_id: str, answer: Answer, chance: float) -> Outcome:
    """Decide what comes of an attempt; `chance` is a random number from 0 to 1."""
    if answer.succeeded:
        return Outcome(claim, event_id, answer, DeliveryState.RECEIVED, None)
    attempts = claim.attempts + 1
    # Whoever wants no more events may change their mind, and then gets this one, too.
    if attempts >= MAX_ATTEMPTS and not answer.gone:
        return Outcome(claim, event_id, answer, DeliveryState.GIVEN_UP, None)
    return Outcome(claim, event_id, answer, DeliveryState.PENDING, delay(attempts, chance))


def delay(attempts: int, chance: float) -> float:
    """Seconds until an event is sent again after so many attempts."""
    return min(FIRST_DELAY * 2.0 ** min(attempts - 1, 30), LONGEST_DELAY) * (1 + JITTER * (2 * chance - 1))


def event_id(position: int) -> str:
    """The id of an event for its receivers, the same whenever it is sent."""
    return f"evt_{position}"


def event_type(kind: str) -> str:
    """What a kind of event is called in what is sent: `payment.completed` for PAYMENT_COMPLETED."""
    return kind.lower().replace("_", ".", 1)


def not_found(webhook_id: int) -> NotFound:
    """Refuse what needs a webhook that there is not."""
    return NotFound(RESOURCE, str(webhook_id))
