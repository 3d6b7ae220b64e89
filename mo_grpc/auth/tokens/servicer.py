"""TokenService over the accounts and their sessions."""

from datetime import timedelta

from mo.auth.v1 import tokens_pb2, tokens_pb2_grpc
from mo.errors.v1.error_reason_pb2 import ErrorReason
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import Actor, AuditKind, NewAuditEvent
from mo_grpc.audit_log.store import append
from mo_grpc.auth.tokens.ring import TokenRing
from mo_grpc.auth.tokens.rules import jwk, token_invalid
from mo_grpc.auth.users import sessions
from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.auth.users.rules import LoginAttempt, OtpRequired, User, credentials_invalid
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import Unauthenticated
from mo_grpc.rpc.caller import caller, user_session
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import timestamp
from mo_grpc.rpc.metadata import NO_STORE, Addresses, basic


class TokenServicer(tokens_pb2_grpc.TokenServiceServicer):
    """See `mo/auth/v1/tokens.proto`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        vault: Vault,
        ring: TokenRing,
        addresses: Addresses,
        accounts: Accounts,
    ) -> None:
        self._database = database
        self._vault = vault
        self._ring = ring
        self._addresses = addresses
        self._accounts = accounts
        self._header = settings.token_header
        self._session_lifetime = timedelta(hours=settings.mo_session_hours)

    async def CreateToken(self, request: tokens_pb2.CreateTokenRequest, context: Context) -> tokens_pb2.CreateTokenResponse:
        refresh_token = sessions.new_refresh_token()

        async def begin(connection: AsyncConnection, user: User) -> sessions.Session:
            return await sessions.begin_session(
                connection, user.id, sessions.refresh_hash(refresh_token), self._session_lifetime
            )

        address = self._addresses(context)
        try:
            if request.challenge:
                claims = await self._ring.read_challenge(request.challenge)
                if claims is None:
                    raise credentials_invalid()
                attempt = LoginAttempt("", "", request.code, request.new_password, address)
                login = await self._accounts.resume(claims.user_id, claims.about, attempt, begin)
            else:
                attempt = LoginAttempt(*self._basic(context), request.code, request.new_password, address)
                login = await self._accounts.log_in(attempt, begin)
        except OtpRequired as required:
            challenge, expires_at = await self._ring.challenge(required.user)
            asked = tokens_pb2.OtpChallenge(challenge=challenge, expires_at=timestamp(expires_at))
            answer = tokens_pb2.CreateTokenResponse(otp_challenge=asked)
        else:
            answer = tokens_pb2.CreateTokenResponse(tokens=await self._tokens(login, refresh_token))
        await context.send_initial_metadata(NO_STORE)
        return answer

    async def RefreshToken(self, request: tokens_pb2.RefreshTokenRequest, context: Context) -> tokens_pb2.Tokens:
        refresh_token = sessions.new_refresh_token()
        spent, new = sessions.refresh_hash(request.refresh_token), sessions.refresh_hash(refresh_token)
        actor = Actor("", self._addresses(context))

        async def spend(connection: AsyncConnection) -> sessions.Session | sessions.Reused | None:
            found = await sessions.spend_token(connection, spent, new)
            if isinstance(found, sessions.Reused):
                reused = NewAuditEvent(
                    AuditKind.REFRESH_TOKEN_REUSED, actor, f"user-{found.user_id}", {"session": found.session_id}
                )
                await append(connection, self._vault, [reused])
            return found

        login = await self._database.write(spend)
        if not isinstance(login, sessions.Session):
            raise token_invalid()
        tokens = await self._tokens(login, refresh_token)
        await context.send_initial_metadata(NO_STORE)
        return tokens

    async def RevokeToken(self, request: tokens_pb2.RevokeTokenRequest, context: Context) -> tokens_pb2.RevokeTokenResponse:
        session = user_session()
        actor = Actor(caller().id, self._addresses(context))
        ended = "all" if request.all_sessions else session.id

        async def revoke(connection: AsyncConnection) -> None:
            if request.all_sessions:
                await sessions.revoke_sessions_of(connection, session.user_id)
            else:
                await sessions.revoke_sessions(connection, [session.id])
            await append(connection, self._vault, [NewAuditEvent(AuditKind.LOGGED_OUT, actor, caller().id, {"session": ended})])

        await self._database.write(revoke)
        return tokens_pb2.RevokeTokenResponse()

    async def GetJwks(self, request: tokens_pb2.GetJwksRequest, context: Context) -> tokens_pb2.Jwks:
        return tokens_pb2.Jwks(keys=[tokens_pb2.Jwk(**jwk(key)) for key in await self._ring.keys()])

    def _basic(self, context: Context) -> tuple[str, str]:
        presented = basic(context, self._header)
        if presented is None:
            raise Unauthenticated(
                ErrorReason.CREDENTIALS_MISSING,
                f"This call needs an e-mail and a password, as Basic credentials in '{self._header}'.",
                metadata={"header": self._header},
            )
        return presented

    async def _tokens(self, login: sessions.Session, refresh_token: str) -> tokens_pb2.Tokens:
        access_token, expires_at = await self._ring.access_token(login)
        return tokens_pb2.Tokens(
            access_token=access_token,
            access_expires_at=timestamp(expires_at),
            refresh_token=refresh_token,
            session_expires_at=timestamp(login.expires_at),
        )
