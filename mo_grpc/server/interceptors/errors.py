"""Turns whatever a call raises into a `google.rpc.Status` with details; nothing else ends a call with an error."""

import math

import grpc
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import RetryInfo
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.errors import Internal, ServiceError
from mo_grpc.rpc.context import Context
from mo_grpc.server.interceptors.beginning import ending
from mo_grpc.telemetry.calls import Call

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_KEY = "grpc-status-details-bin"

# What would do instead, as HTTP asks of every 401 (RFC 9110, 11.6.1; RFC 6750, 3; RFC 7617).
_BASIC = 'Basic realm="mo", charset="UTF-8"'
_CHALLENGES = {
    ErrorReason.CREDENTIALS_MISSING: _BASIC,
    ErrorReason.CREDENTIALS_INVALID: _BASIC,
    ErrorReason.TOKEN_INVALID: 'Bearer realm="mo", error="invalid_token"',
}


async def end_call(call: Call, error: Exception, context: Context) -> None:
    """End the call with the status of `error`. A fault of ours answers INTERNAL and a request id; its observers get all."""
    told = error if isinstance(error, ServiceError) else Internal(call.request_id)
    status = told.to_status()
    code = _CODES[status.code]
    call.reason = ErrorReason.Name(told.reason)
    call.end(code, error)
    trailing: list[tuple[str, str | bytes]] = [*ending(call), (_DETAILS_KEY, status.SerializeToString())]
    # The header that HTTP's clients know (RFC 9110, 10.2.3), in whole seconds.
    trailing += [
        ("retry-after", str(math.ceil(detail.retry_delay.ToMilliseconds() / 1000)))
        for detail in told.details
        if isinstance(detail, RetryInfo)
    ]
    if status.code == code_pb2.UNAUTHENTICATED:
        trailing.append(("www-authenticate", _CHALLENGES.get(told.reason, 'Bearer realm="mo"')))
    await context.abort(code, status.message, trailing_metadata=tuple(trailing))
