"""The context of a call, as gRPC hands it to a servicer."""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import grpc

# Quoted, because it is generic for the type checker alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
