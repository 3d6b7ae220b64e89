"""Lets a call in only with an API key, or a person's access token, that has the scope its RPC asks for (DESIGN §5)."""

from google.protobuf.message import DecodeError, Message
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.access import ACCESS, BASIC, PUBLIC
from mo_grpc.auth.caller import Caller, known_caller, set_caller
from mo_grpc.auth.keyring import KeyRing
from mo_grpc.auth.rules import Credential
from mo_grpc.errors import PermissionDenied, Unauthenticated
from mo_grpc.events.refusals import Refusal, Refusals
from mo_grpc.events.rules import By
from mo_grpc.interceptors.base import Context, Interceptor
from mo_grpc.interceptors.credentials import client_address, credentials
from mo_grpc.tokens.ring import TokenRing


class AuthenticationInterceptor(Interceptor):
    """Checks the key in the metadata named `header`, or else the token; an RPC that is not in the access table is refused."""

    def __init__(self, keys: KeyRing, header: str, tokens: TokenRing, token_header: str, refusals: Refusals) -> None:
        super().__init__()
        self._keys = keys
        self._header = header
        self._tokens = tokens
        self._token_header = token_header
        self._refusals = refusals

    async def before(self, method: str, request: Message | DecodeError | None, context: Context) -> None:
        """Refuse the call if its key or token does not open this RPC."""
        scope = ACCESS.get(method)
        if scope in (PUBLIC, BASIC):
            return
        who = await self._caller(method, context)
        set_caller(who)
        if scope is None or scope not in who.scopes:
            raise PermissionDenied(scope or method)

    async def failed(self, method: str, error: Exception, context: Context) -> None:
        """Have a refusal recorded; logins record theirs themselves."""
        if isinstance(error, Unauthenticated | PermissionDenied) and error.reason != ErrorReason.CREDENTIALS_INVALID:
            who = known_caller()
            by = By(who.id if who else self._claimed(context), client_address(context))
            self._refusals.note(Refusal(ErrorReason.Name(error.reason), by), method)
        raise error

    async def _caller(self, method: str, context: Context) -> Caller:
        presented = self._presented(context)
        if presented is None and (token := credentials(context, self._token_header, "bearer")) is not None:
            session = await self._tokens.authenticate(token)
            return Caller(f"user-{session.user_id}", method, session.scopes, session)
        if not isinstance(presented, str):
            raise Unauthenticated(
                ErrorReason.API_KEY_MISSING,
                f"This call needs an API key, as '{self._header}'.",
                metadata={"header": self._header},
            )
        key = await self._keys.authenticate(presented)
        return Caller(key.id, method, key.scopes)

    def _presented(self, context: Context) -> str | bytes | None:
        return next((value for key, value in context.invocation_metadata() or () if key == self._header), None)

    def _claimed(self, context: Context) -> str:
        """The id of the key that a refused call names, if there is such a one: an invented id tells nothing."""
        presented = self._presented(context)
        credential = Credential.parse(presented) if isinstance(presented, str) else None
        return credential.id if credential and self._keys.has(credential.id) else ""
