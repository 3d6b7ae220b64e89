"""The shape that the interceptors share: something before the handler, something when it fails, for all four kinds of RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from mo_grpc.rpc.context import Context

# Quoted, because it is generic for the type checker alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Interceptor(grpc.aio.ServerInterceptor):
    """Calls `before` ahead of each handler, and `failed` for what it or the handler raises."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def before(self, method: str, request: Message | DecodeError | None, context: Context) -> None:
        """Look at a call before its handler does; raise to refuse it.

        A stream of requests shows as None, and bytes that are no message as the error that they are.
        """

    async def failed(self, method: str, error: Exception, context: Context) -> None:
        """Deal with what the handler raised; by default, let it pass on."""
        raise error

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Answer the handler of a method, wrapped; the same each time, so the chain is walked once a method."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        streams = handler.request_streaming
        looks = type(self).before is not Interceptor.before

        async def unary(request: Any, context: Context) -> Any:
            try:
                if looks:
                    await self.before(method, None if streams else request, context)
                return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                return await self.failed(method, error, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                await self.before(method, None if streams else request, context)
                result = behavior(request, context)
                if hasattr(result, "__aiter__"):
                    async for response in result:
                        yield response
                else:  # a handler that writes to the context instead of yielding
                    await result
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self.failed(method, error, context)

        kind = f"{'stream' if streams else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
        behavior = getattr(handler, kind)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        deserialize = handler.request_deserializer if streams else _tolerant(handler.request_deserializer)
        wrapped: Handler = make(stream if handler.response_streaming else unary, deserialize, handler.response_serializer)
        return wrapped


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
