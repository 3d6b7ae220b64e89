"""The errors of a call, as exceptions, each with its `google.rpc.Status`.

    ServiceError
    ├── InvalidFields       INVALID_ARGUMENT + BadRequest
    ├── InvalidArgument     INVALID_ARGUMENT
    ├── InvalidPageToken    INVALID_ARGUMENT + BadRequest
    ├── MalformedRequest    INVALID_ARGUMENT
    ├── NotFound            NOT_FOUND + ResourceInfo
    ├── AlreadyExists       ALREADY_EXISTS + ResourceInfo
    ├── PreconditionFailed  FAILED_PRECONDITION + PreconditionFailure
    ├── OutOfRange          OUT_OF_RANGE
    ├── StaleEtag           ABORTED
    ├── Aborted             ABORTED
    │   └── PreviewStale
    ├── Unauthenticated     UNAUTHENTICATED
    ├── PermissionDenied    PERMISSION_DENIED
    ├── NetworkNotAllowed   PERMISSION_DENIED
    ├── CustomerNotAllowed  PERMISSION_DENIED
    ├── Conflict            ABORTED + RetryInfo
    ├── Unavailable         UNAVAILABLE + RetryInfo
    │   └── OutcomeUnknown
    ├── Stopping            UNAVAILABLE + RetryInfo
    ├── Overloaded          RESOURCE_EXHAUSTED + RetryInfo
    ├── TooManyRequests     RESOURCE_EXHAUSTED + RetryInfo
    ├── UnknownMethod       UNIMPLEMENTED
    ├── JournalInconsistent INTERNAL
    └── Internal            INTERNAL

Each carries one `ErrorInfo` with a reason of `mo.errors.v1.ErrorReason` (AIP-193). The stores return them as values, so that
one refused command does not roll its neighbours back; the servicers raise them; one interceptor sends them.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from mo.errors.v1.error_reason_pb2 import ErrorReason

DOMAIN = "mo"


class ServiceError(Exception):
    """A call is refused, or has failed, for a reason that its caller should know."""

    code: ClassVar[code_pb2.Code.ValueType]

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        details: Iterable[Message] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.details = tuple(details)
        self.metadata = dict(metadata or {})

    def to_status(self) -> Status:
        """The status that is sent."""
        info = ErrorInfo(reason=ErrorReason.Name(self.reason), domain=DOMAIN, metadata=self.metadata)
        status = Status(code=self.code, message=self.message)
        for detail in (info, *self.details):
            status.details.add().Pack(detail)
        return status


class FieldViolation(NamedTuple):
    """One wrong field, named as the REST caller sent it, and why."""

    field: str
    description: str


class InvalidFields(ServiceError):
    """Some fields of the request are wrong."""

    code = code_pb2.INVALID_ARGUMENT

    def __init__(self, violations: Iterable[FieldViolation]) -> None:
        found = [BadRequest.FieldViolation(field=v.field, description=v.description) for v in violations]
        message = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in found)
        super().__init__(ErrorReason.INVALID_FIELDS, message, [BadRequest(field_violations=found)])


class InvalidArgument(ServiceError):
    """The request is wrong, whatever the state."""

    code = code_pb2.INVALID_ARGUMENT


class InvalidPageToken(ServiceError):
    """The page token is damaged, or was made by another list, or with other filters."""

    code = code_pb2.INVALID_ARGUMENT

    def __init__(self) -> None:
        text = "is not a token that this list gave, with these filters"
        violation = BadRequest.FieldViolation(field="page_token", description=text)
        details = [BadRequest(field_violations=[violation])]
        super().__init__(ErrorReason.INVALID_PAGE_TOKEN, f"page_token: {text}", details)


class MalformedRequest(ServiceError):
    """The bytes are not the message of the RPC."""

    code = code_pb2.INVALID_ARGUMENT

    def __init__(self) -> None:
        super().__init__(ErrorReason.MALFORMED_REQUEST, "The request is malformed: its bytes are not the message of this call.")


class Resource(NamedTuple):
    """A kind of resource: its name in plain words, its message, and its reasons."""

    name: str
    type: str
    not_found: ErrorReason.ValueType
    already_exists: ErrorReason.ValueType


class NotFound(ServiceError):
    """There is no such resource."""

    code = code_pb2.NOT_FOUND

    def __init__(self, resource: Resource, external_id: str) -> None:
        message = f"There is no {resource.name} '{external_id}'."
        details = [ResourceInfo(resource_type=resource.type, resource_name=external_id)]
        super().__init__(resource.not_found, message, details, {"external_id": external_id})


class AlreadyExists(ServiceError):
    """The id is taken."""

    code = code_pb2.ALREADY_EXISTS

    def __init__(self, resource: Resource, external_id: str) -> None:
        message = f"There is a {resource.name} '{external_id}' already."
        details = [ResourceInfo(resource_type=resource.type, resource_name=external_id)]
        super().__init__(resource.already_exists, message, details, {"external_id": external_id})


class PreconditionFailed(ServiceError):
    """The state of a resource does not allow the call; `subject` is the id of that resource."""

    code = code_pb2.FAILED_PRECONDITION

    def __init__(
        self, reason: ErrorReason.ValueType, message: str, subject: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        kind = ErrorReason.Name(reason)
        violation = PreconditionFailure.Violation(type=kind, subject=subject, description=message)
        super().__init__(reason, message, [PreconditionFailure(violations=[violation])], metadata)


class OutOfRange(ServiceError):
    """What is asked for has not come yet."""

    code = code_pb2.OUT_OF_RANGE


class StaleEtag(ServiceError):
    """The resource has changed since its etag was read (AIP-154)."""

    code = code_pb2.ABORTED

    def __init__(self, external_id: str, etag: str) -> None:
        message = f"'{external_id}' has changed since it was read; read it again."
        super().__init__(ErrorReason.STALE_ETAG, message, metadata={"external_id": external_id, "etag": etag})


class Aborted(ServiceError):
    """The call conflicts with another one."""

    code = code_pb2.ABORTED


class PreviewStale(Aborted):
    """A call would not do what its preview showed; a new preview, if there is one, is what it would do."""

    def __init__(self, preview_token: str = "", preview: Message | None = None) -> None:
        message = "Something has happened to the customer since the preview; look at what would happen now."
        details = [preview] if preview else []
        super().__init__(ErrorReason.PREVIEW_STALE, message, details, {"preview_token": preview_token})


class Unauthenticated(ServiceError):
    """The caller is not known."""

    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller lacks the scope."""

    code = code_pb2.PERMISSION_DENIED

    def __init__(self, scope: str) -> None:
        message = f"The caller lacks the scope '{scope}'."
        super().__init__(ErrorReason.SCOPE_MISSING, message, metadata={"scope": scope})


class NetworkNotAllowed(ServiceError):
    """The caller's key may not be used from its address."""

    code = code_pb2.PERMISSION_DENIED

    def __init__(self, address: str) -> None:
        message = f"The API key may not be used from {address or 'an unknown address'}."
        super().__init__(ErrorReason.NETWORK_NOT_ALLOWED, message, metadata={"address": address})


class CustomerNotAllowed(ServiceError):
    """The caller's key is bound to customers, and the customer to create is none of them."""

    code = code_pb2.PERMISSION_DENIED

    def __init__(self, external_id: str) -> None:
        message = f"The API key is bound to customers, and '{external_id}' is none of them."
        super().__init__(ErrorReason.CUSTOMER_NOT_ALLOWED, message, metadata={"external_id": external_id})


def retry_after(milliseconds: int) -> RetryInfo:
    """When the caller may try again."""
    delay = Duration()
    delay.FromMilliseconds(milliseconds)
    return RetryInfo(retry_delay=delay)


class Conflict(ServiceError):
    """The transaction conflicted with others each time it was tried."""

    code = code_pb2.ABORTED

    def __init__(self) -> None:
        super().__init__(ErrorReason.CONFLICT, "Other calls were in the way; please retry.", [retry_after(50)])


class Unavailable(ServiceError):
    """The database cannot be reached."""

    code = code_pb2.UNAVAILABLE

    def __init__(self, message: str = "The service cannot reach its database; please retry.") -> None:
        super().__init__(ErrorReason.DATABASE_UNAVAILABLE, message, [retry_after(500)])


class OutcomeUnknown(Unavailable):
    """The database did not confirm a write: it took effect, or did not, or still will."""

    def __init__(self) -> None:
        super().__init__(
            "The database did not confirm the write, which may have taken effect or not; "
            "please retry with the same idempotency key, or look."
        )


class Stopping(ServiceError):
    """The server is stopping, and ends calls that do not end by themselves."""

    code = code_pb2.UNAVAILABLE

    def __init__(self) -> None:
        message = "This server stops; call again, and another answers. What the call has changed so far may stay."
        super().__init__(ErrorReason.SERVER_STOPPING, message, [retry_after(500)])


class Overloaded(ServiceError):
    """Too many calls are waiting."""

    code = code_pb2.RESOURCE_EXHAUSTED

    def __init__(self) -> None:
        message = "The service has more calls waiting than it can answer in good time; please retry."
        super().__init__(ErrorReason.OVERLOADED, message, [retry_after(500)])


class TooManyRequests(ServiceError):
    """The caller has used up a limit; it may try again after `seconds`."""

    code = code_pb2.RESOURCE_EXHAUSTED

    def __init__(self, reason: ErrorReason.ValueType, message: str, seconds: float) -> None:
        super().__init__(reason, message, [retry_after(round(seconds * 1000))])


class UnknownMethod(ServiceError):
    """There is no such RPC, or it is switched off."""

    code = code_pb2.UNIMPLEMENTED

    def __init__(self) -> None:
        super().__init__(ErrorReason.RPC_NOT_FOUND, "There is no such method.")


class JournalInconsistent(ServiceError):
    """The journal does not explain what was done."""

    code = code_pb2.INTERNAL

    def __init__(self, external_id: str) -> None:
        message = f"The journal does not explain '{external_id}'; `mo-grpc audit` says more."
        super().__init__(ErrorReason.JOURNAL_INCONSISTENT, message, metadata={"external_id": external_id})


class Internal(ServiceError):
    """A fault of the service; the log has it with the request id."""

    code = code_pb2.INTERNAL

    def __init__(self, request_id: str) -> None:
        message = f"The service failed; tell us the request id {request_id}."
        super().__init__(ErrorReason.INTERNAL_ERROR, message, metadata={"request_id": request_id})
