"""The values of an idempotency key, and the decisions about one, without any SQL (docs/rules.md, R48 to R55)."""

import hashlib
import re
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import Aborted, FieldViolation, InvalidArgument, InvalidFields, ServiceError, retry_after

C = TypeVar("C")

HEADER = "idempotency-key"
REPLAYED = ("idempotency-replayed", "true")

_KEY = re.compile(r"[!-~]{1,255}")


class IdempotencyKey(NamedTuple):
    """A caller's key for one command, and the hash of the request it came with."""

    owner: str
    key: str
    request_hash: bytes


class Record(NamedTuple):
    """The answer to a key: a message, or the status of a refusal."""

    owner: str
    key: str
    request_hash: bytes
    refused: bool
    answer: bytes


class Keyed(NamedTuple, Generic[C]):
    """A command, and its key if it has one."""

    command: C
    idempotency: IdempotencyKey | None


class Replay(NamedTuple):
    """The result of a command that took effect before: the stored answer."""

    record: Record

    @property
    def refusal(self) -> ServiceError | None:
        """The refusal that was answered, if it was one."""
        return ReplayedRefusal(Status.FromString(self.record.answer)) if self.record.refused else None


class ReplayedRefusal(ServiceError):
    """A refusal as it was answered before."""

    def __init__(self, status: Status) -> None:
        super().__init__(ErrorReason.ERROR_REASON_UNSPECIFIED, status.message)
        self._status = status

    def to_status(self) -> Status:
        """The same status as before."""
        return self._status


def make_key(owner: str, key: str, method: str, request: Message, field: str = HEADER) -> IdempotencyKey:
    """Make the key of a caller's request.

    Raises:
        InvalidFields: it is not 1 to 255 visible ASCII characters.
    """
    if not _KEY.fullmatch(key):
        raise InvalidFields([FieldViolation(field, "must be 1 to 255 visible ASCII characters")])
    digest = hashlib.sha256(method.encode() + b"\0" + request.SerializeToString(deterministic=True))
    return IdempotencyKey(owner, key, digest.digest())


def passes(result: object) -> bool:
    """Whether a result is a refusal that may pass, so that it is not stored and the key can be used again (R52)."""
    return isinstance(result, ServiceError) and result.code == code_pb2.ABORTED


def mismatch() -> InvalidArgument:
    """Refuse a key that came with another request before."""
    message = "This idempotency key came with another request before."
    return InvalidArgument(ErrorReason.IDEMPOTENCY_KEY_REUSED, message)


def in_flight() -> Aborted:
    """Refuse a key whose first call still runs."""
    message = "The first call with this idempotency key still runs; please retry."
    return Aborted(ErrorReason.IDEMPOTENCY_KEY_IN_FLIGHT, message, [retry_after(100)])
