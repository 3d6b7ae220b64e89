"""The interceptor: what each call passes, in one piece, since every layer more costs each call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health

from mo_grpc.errors import Stopping, UnknownMethod
from mo_grpc.rpc.access import ACCESS, BASIC, PUBLIC
from mo_grpc.rpc.context import Context
from mo_grpc.server.interceptors.admission import Admission
from mo_grpc.server.interceptors.beginning import begin_call, tell_timing
from mo_grpc.server.interceptors.draining import RunningCalls
from mo_grpc.server.interceptors.errors import end_call
from mo_grpc.server.interceptors.streams import guarded
from mo_grpc.server.interceptors.validation import check
from mo_grpc.telemetry.calls import UNKNOWN_METHOD, Call

# Quoted, because it is generic for the type checker alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

DEADLINE_PRECISION = 0.05
"""Seconds by which a client may give up before the deadline that the server knows: the two count from different moments."""

_ENDS_ITSELF = f"/{health.SERVICE_NAME}/Watch"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Keeps track of each call, admits its caller, checks its request, and ends it with a status that says what was wrong."""

    def __init__(self, admission: Admission, calls: RunningCalls) -> None:
        self._admission = admission
        self._calls = calls
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Answer the handler of a method, wrapped; the same each time. Where there is none, answer one that says so."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return _UNKNOWN  # not kept: callers may invent any number of names
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        sends, answers = handler.request_streaming, handler.response_streaming
        kind = f"{'stream' if sends else 'unary'}_{'stream' if answers else 'unary'}"
        behavior = getattr(handler, kind)
        restricted = ACCESS.get(method) not in (PUBLIC, BASIC)
        if restricted and (sends or answers):
            behavior = guarded(behavior, self._admission.admit, method, sends=sends, answers=answers)
        wrapped = (
            self._stream(method, behavior, restricted, sends) if answers else self._unary(method, behavior, restricted, sends)
        )
        deserialize = handler.request_deserializer if sends else _tolerant(handler.request_deserializer)
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrapped, deserialize, handler.response_serializer)

    def _unary(self, method: str, behavior: Any, restricted: bool, sends: bool) -> Callable[[Any, Context], Awaitable[Any]]:
        admission, calls = self._admission, self._calls

        async def unary(request: Any, context: Context) -> Any:
            task = calls.enter()
            call = begin_call(method, context, streams=sends)
            try:
                if calls.held:
                    await calls.released()
                if restricted:
                    await admission.enter(method, context)
                if not sends:
                    check(method, request)
                response = await behavior(request, context)
                call.end(grpc.StatusCode.OK)
                if call.timed:
                    await tell_timing(call, context)
                return response
            except grpc.aio.AbortError:
                call.end(context.code())
                raise
            except asyncio.CancelledError:
                if not calls.ended(task):
                    raise
                return await self._fail(call, Stopping(), context)
            except Exception as error:
                return await self._fail(call, error, context)
            finally:
                calls.leave(task)
                if call.runs:
                    call.end(_cancelled(context))

        return unary

    def _stream(
        self, method: str, behavior: Any, restricted: bool, sends: bool
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        admission = self._admission
        calls = RunningCalls() if method == _ENDS_ITSELF else self._calls

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            task = calls.enter(streams=True)
            call = begin_call(method, context, streams=True)
            try:
                if restricted:
                    await admission.enter(method, context)
                if not sends:
                    check(method, request)
                answers = behavior(request, context)
                if hasattr(answers, "__aiter__"):
                    async for answer in answers:
                        yield answer
                else:  # a handler that writes to the context instead of yielding
                    await answers
                call.end(grpc.StatusCode.OK)
            except grpc.aio.AbortError:
                call.end(context.code())
                raise
            except asyncio.CancelledError:
                if not calls.ended(task):
                    raise
                await self._fail(call, Stopping(), context)
            except Exception as error:
                await self._fail(call, error, context)
            finally:
                calls.leave(task)
                if call.runs:
                    call.end(_cancelled(context))

        return stream

    async def _fail(self, call: Call, error: Exception, context: Context) -> None:
        self._admission.note_refusal(call.method, error, context)
        await end_call(call, error, context)


async def _refuse(_: AsyncIterator[bytes], context: Context) -> None:
    await end_call(begin_call(UNKNOWN_METHOD, context), UnknownMethod(), context)


_UNKNOWN: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
"""Takes calls of all kinds, since it reads nothing of them."""


def _cancelled(context: Context) -> grpc.StatusCode:
    """What a client sees of a call that was cancelled, by itself or by its deadline."""
    left = context.time_remaining()
    return grpc.StatusCode.CANCELLED if left is None or left > DEADLINE_PRECISION else grpc.StatusCode.DEADLINE_EXCEEDED


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Pass an error on as a value: gRPC, which reads the request before any interceptor, would answer UNKNOWN."""
    if deserialize is None:
        return None

    def tolerant(content: bytes) -> Any:
        try:
            return deserialize(content)
        except DecodeError as error:
            return error

    return tolerant
