"""Lets a call in only with an API key, or a person's access token, that has the scope its RPC asks for."""

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.audit_log.refusals import RefusedCall, RefusedCalls
from mo_grpc.audit_log.rules import Actor
from mo_grpc.auth.api_keys.keyring import KeyRing
from mo_grpc.auth.api_keys.limits import Limits
from mo_grpc.auth.api_keys.rules import ApiKey, Credential
from mo_grpc.auth.tokens.ring import TokenRing
from mo_grpc.config import Settings
from mo_grpc.errors import CustomerNotAllowed, NetworkNotAllowed, PermissionDenied, Unauthenticated
from mo_grpc.rpc.access import ACCESS, BOUND, Bound
from mo_grpc.rpc.caller import Caller, known_caller, set_caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.metadata import Addresses, credentials
from mo_grpc.telemetry.calls import current_call


class Admission:
    """Checks the key in the metadata named `header`, or else the token; an RPC that is not in the access table is refused."""

    def __init__(
        self, settings: Settings, keys: KeyRing, tokens: TokenRing, limits: Limits, refusals: RefusedCalls, addresses: Addresses
    ) -> None:
        self._header = settings.api_key_custom_header
        self._token_header = settings.token_header
        self._keys = keys
        self._tokens = tokens
        self._limits = limits
        self._refusals = refusals
        self._addresses = addresses

    async def enter(self, method: str, context: Context) -> None:
        """Let a call in, which uses up one of its key's calls.

        Raises:
            ServiceError: as `admit`.
            TooManyRequests: the key has no calls left, at the moment or today.
        """
        key = await self.admit(method, context)
        # The last, so that what is refused anyway uses nothing up.
        if key and key.is_limited:
            self._limits.charge(key)

    async def admit(self, method: str, context: Context) -> ApiKey | None:
        """Find who calls, and let them in; answers the key, if the call carries one. Uses up none of the key's calls.

        Raises:
            Unauthenticated: there is no key or token, or it does not count.
            PermissionDenied: it does not open this RPC.
            NetworkNotAllowed: the key may not be used from the caller's address.
            Unavailable: the database has been out of reach for so long that a revocation may have been missed.
        """
        scope = ACCESS.get(method)
        presented = self._presented(context)
        key = None
        if presented is None and (token := credentials(context, self._token_header, "bearer")) is not None:
            session = await self._tokens.authenticate(token)
            who = Caller(f"user-{session.user_id}", method, session.scopes, session)
        elif isinstance(presented, str):
            key = await self._keys.authenticate(presented)
            who = Caller(key.id, method, key.scopes, customers=key.customers)
        else:
            raise Unauthenticated(
                ErrorReason.API_KEY_MISSING,
                f"This call needs an API key, as '{self._header}'.",
                metadata={"header": self._header},
            )
        set_caller(who)
        if call := current_call():
            call.caller = who.id
        if key and key.allowed_networks and not key.allows(address := self._addresses(context)):
            raise NetworkNotAllowed(address)
        if scope is None or scope not in who.scopes:
            raise PermissionDenied(scope or method)
        if who.customers is not None and BOUND.get(method, Bound.NEVER) is Bound.NEVER:
            raise PermissionDenied(scope)
        return key

    def note_refusal(self, method: str, error: Exception, context: Context) -> None:
        """Have a refusal recorded; logins record theirs themselves."""
        if (
            isinstance(error, Unauthenticated | PermissionDenied | NetworkNotAllowed | CustomerNotAllowed)
            and error.reason != ErrorReason.CREDENTIALS_INVALID
        ):
            who = known_caller()
            actor = Actor(who.id if who else self._claimed(context), self._addresses(context))
            self._refusals.note(RefusedCall(ErrorReason.Name(error.reason), actor), method)

    def _presented(self, context: Context) -> str | bytes | None:
        return next((value for key, value in context.invocation_metadata() or () if key == self._header), None)

    def _claimed(self, context: Context) -> str:
        """The id of the key that a refused call names, if there is such a one: an invented id tells nothing."""
        presented = self._presented(context)
        credential = Credential.parse(presented) if isinstance(presented, str) else None
        return credential.id if credential and self._keys.has(credential.id) else ""
