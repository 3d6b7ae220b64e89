"""Lets a call in only with an API key that has the scope its RPC asks for (DESIGN §5)."""

from google.protobuf.message import DecodeError, Message
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.access import ACCESS, PUBLIC
from mo_grpc.auth.caller import Caller, set_caller
from mo_grpc.auth.keyring import KeyRing
from mo_grpc.errors import PermissionDenied, Unauthenticated
from mo_grpc.interceptors.base import Context, Interceptor


class AuthenticationInterceptor(Interceptor):
    """Checks the key in the metadata named `header`; an RPC that the access table does not list is refused."""

    def __init__(self, keys: KeyRing, header: str) -> None:
        super().__init__()
        self._keys = keys
        self._header = header

    async def before(self, method: str, request: Message | DecodeError | None, context: Context) -> None:
        """Refuse the call if its key does not open this RPC."""
        scope = ACCESS.get(method)
        if scope == PUBLIC:
            return
        presented = next((value for key, value in context.invocation_metadata() or () if key == self._header), None)
        if not isinstance(presented, str):
            raise Unauthenticated(
                ErrorReason.API_KEY_MISSING,
                f"This call needs an API key, as '{self._header}'.",
                metadata={"header": self._header},
            )
        key = await self._keys.authenticate(presented)
        if scope is None or scope not in key.scopes:
            raise PermissionDenied(scope or method)
        set_caller(Caller(key.id, method))
