"""Lets a call in only with an API key, or a person's access token, that has the scope its RPC asks for (DESIGN §5)."""

from google.protobuf.message import DecodeError, Message
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.access import ACCESS, BASIC, PUBLIC
from mo_grpc.auth.caller import Caller, set_caller
from mo_grpc.auth.keyring import KeyRing
from mo_grpc.errors import PermissionDenied, Unauthenticated
from mo_grpc.interceptors.base import Context, Interceptor
from mo_grpc.interceptors.credentials import credentials
from mo_grpc.tokens.ring import TokenRing


class AuthenticationInterceptor(Interceptor):
    """Checks the key in the metadata named `header`, or else the token; an RPC that is not in the access table is refused."""

    def __init__(self, keys: KeyRing, header: str, tokens: TokenRing, token_header: str) -> None:
        super().__init__()
        self._keys = keys
        self._header = header
        self._tokens = tokens
        self._token_header = token_header

    async def before(self, method: str, request: Message | DecodeError | None, context: Context) -> None:
        """Refuse the call if its key or token does not open this RPC."""
        scope = ACCESS.get(method)
        if scope in (PUBLIC, BASIC):
            return
        presented = next((value for key, value in context.invocation_metadata() or () if key == self._header), None)
        if presented is None and (token := credentials(context, self._token_header, "bearer")) is not None:
            session = await self._tokens.authenticate(token, scope, method)
            set_caller(Caller(f"user-{session.user_id}", method, session.scopes, session))
            return
        if not isinstance(presented, str):
            raise Unauthenticated(
                ErrorReason.API_KEY_MISSING,
                f"This call needs an API key, as '{self._header}'.",
                metadata={"header": self._header},
            )
        key = await self._keys.authenticate(presented)
        if scope is None or scope not in key.scopes:
            raise PermissionDenied(scope or method)
        set_caller(Caller(key.id, method, key.scopes))
