"""What each status of HTTP means in this API: one table for what Envoy itself answers and for the reference of the API."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import DOMAIN


@dataclass(frozen=True)
class HttpError:
    """A status, and what a caller reads when Envoy itself answers with it: the service's own error, in its two forms."""

    http_status: int
    code: code_pb2.Code.ValueType
    reason: ErrorReason.ValueType
    message: str
    # REST callers only, since Envoy fills in its %…% in JSON alone.
    metadata: Mapping[str, str] = field(default_factory=dict)
    explained: bool = False
    retry_after: int | None = None  # seconds
    op: Literal["EQ", "GE"] = "EQ"
    meaning: str = ""
    """What the reference says of the status, whoever answers with it; empty where it is the message."""
    example: ErrorReason.ValueType | None = None
    """The reason that the reference shows; None where it is the edge's."""
    in_reference: bool = True
    by_edge: bool = True

    @property
    def json(self) -> dict[str, object]:
        """The body of a REST answer."""
        info = {
            "@type": f"type.googleapis.com/{ErrorInfo.DESCRIPTOR.full_name}",
            "reason": ErrorReason.Name(self.reason),
            "domain": DOMAIN,
            "metadata": dict(self.metadata),
        }
        message = f"{self.message} %LOCAL_REPLY_BODY%" if self.explained else self.message
        retry = {"@type": f"type.googleapis.com/{RetryInfo.DESCRIPTOR.full_name}", "retry_delay": f"{self.retry_after}s"}
        return {"code": self.code, "message": message, "details": [info, retry] if self.retry_after else [info]}

    @property
    def grpc_headers(self) -> dict[str, str]:
        """The headers of a gRPC answer without a message."""
        status = Status(code=self.code, message=self.message)
        status.details.add().Pack(ErrorInfo(reason=ErrorReason.Name(self.reason), domain=DOMAIN))
        if self.retry_after:
            status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=self.retry_after)))
        return {
            "content-type": "application/grpc",
            "grpc-status": str(self.code),
            "grpc-message": self.message,
            "grpc-status-details-bin": base64.b64encode(status.SerializeToString()).decode().rstrip("="),
        }


# The first that matches is the edge's answer, so the last two are for what no line above foresees.
HTTP_ERRORS = (
    HttpError(
        400,
        code_pb2.INVALID_ARGUMENT,
        ErrorReason.MALFORMED_REQUEST,
        "The request is malformed.",
        explained=True,
        meaning="The request is wrong, or the state forbids it.",
        example=ErrorReason.INVALID_FIELDS,
    ),
    HttpError(
        401,
        code_pb2.UNAUTHENTICATED,
        ErrorReason.API_KEY_INVALID,
        "The API key is not valid.",
        meaning="The key, the token or the password does not count.",
    ),
    HttpError(
        403,
        code_pb2.PERMISSION_DENIED,
        ErrorReason.MALFORMED_REQUEST,
        "This kind of request is not served.",
        meaning="The caller may not do this, or not from here.",
        example=ErrorReason.SCOPE_MISSING,
    ),
    HttpError(
        404,
        code_pb2.NOT_FOUND,
        ErrorReason.ROUTE_NOT_FOUND,
        "No such path.",
        meaning="There is no such thing, or no such path.",
        example=ErrorReason.CUSTOMER_NOT_FOUND,
    ),
    HttpError(
        405,
        code_pb2.UNIMPLEMENTED,
        ErrorReason.METHOD_NOT_ALLOWED,
        "The path is there, but takes other verbs.",
        in_reference=False,
    ),
    HttpError(408, code_pb2.DEADLINE_EXCEEDED, ErrorReason.REQUEST_TIMEOUT, "The request took too long to arrive."),
    HttpError(
        409,
        code_pb2.ALREADY_EXISTS,
        ErrorReason.CUSTOMER_ALREADY_EXISTS,
        "The id is taken, or somebody else was quicker.",
        by_edge=False,
    ),
    HttpError(413, code_pb2.INVALID_ARGUMENT, ErrorReason.REQUEST_TOO_LARGE, "The body is over the limit."),
    HttpError(
        415,
        code_pb2.INVALID_ARGUMENT,
        ErrorReason.UNSUPPORTED_MEDIA_TYPE,
        "The body's content type, or its encoding, is not understood.",
    ),
    HttpError(
        429,
        code_pb2.RESOURCE_EXHAUSTED,
        ErrorReason.RATE_LIMITED,
        "Too many calls; please slow down.",
        retry_after=1,
        meaning="Too many calls; `google.rpc.RetryInfo` says when there may be more.",
    ),
    HttpError(431, code_pb2.INVALID_ARGUMENT, ErrorReason.HEADERS_TOO_LARGE, "The headers are over the limit."),
    HttpError(
        501,
        code_pb2.UNIMPLEMENTED,
        ErrorReason.MALFORMED_REQUEST,
        "This kind of request is not served.",
        in_reference=False,
    ),
    HttpError(
        502,
        code_pb2.UNAVAILABLE,
        ErrorReason.UPSTREAM_UNAVAILABLE,
        "The service did not answer; please retry.",
        meaning="The service did not answer; retry.",
    ),
    HttpError(
        503,
        code_pb2.UNAVAILABLE,
        ErrorReason.UPSTREAM_UNAVAILABLE,
        "The service is down; please retry.",
        meaning="The service, or its database, is out of reach; retry.",
        example=ErrorReason.DATABASE_UNAVAILABLE,
    ),
    HttpError(
        504,
        code_pb2.DEADLINE_EXCEEDED,
        ErrorReason.REQUEST_TIMEOUT,
        "The service took too long to answer; the outcome may still land.",
        meaning="The answer took too long; the outcome may still land.",
    ),
    HttpError(
        500,
        code_pb2.INTERNAL,
        ErrorReason.INTERNAL_ERROR,
        "The edge failed; its log and the request id tell more.",
        metadata={"request_id": "%REQ(X-REQUEST-ID)%"},
        op="GE",
        meaning="The service failed; the request id helps to find out why.",
    ),
    HttpError(
        400, code_pb2.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST, "The request is malformed.", op="GE", in_reference=False
    ),
)
EDGE_ERRORS = tuple(error for error in HTTP_ERRORS if error.by_edge)
REFERENCE_ERRORS = sorted((error for error in HTTP_ERRORS if error.in_reference), key=lambda error: error.http_status)
