"""Calls of the service's RPCs with the token of the user who is logged in; every change is such a call."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mo.auth.v1 import api_keys_pb2_grpc, otp_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from mo.customers.v1 import customers_pb2_grpc
from mo.imports.v1 import imports_pb2, imports_pb2_grpc
from mo.journal.v1 import journal_pb2, journal_pb2_grpc
from mo.loans.v1 import loans_pb2_grpc
from mo.payments.v1 import payments_pb2_grpc

from mo_grpc.imports.form import disposition
from mo_grpc.rpc.metadata import REQUEST_ID, safe_id
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.admin.sessions import BrowserSession

R = TypeVar("R")
Metadata = tuple[tuple[str, str], ...]

_TIMEOUT = 20.0
_MARGIN = 30
"""Seconds before its expiry at which an access token is renewed."""
_REMEMBERED = 120.0
"""Seconds for which a renewed pair is also given to requests with the old one: another tab at the same moment."""


class CallFailed(Exception):
    """A call failed, or was refused; the message is for the user."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details() or "The service did not answer; please try again.")
        self.code = error.code()
        self.reason = _reason(error)

    @property
    def message(self) -> str:
        """What to show to the user."""
        return str(self)


class Client:
    """The gRPC server, called as the user who is logged in."""

    def __init__(self, channel: grpc.aio.Channel, token_header: str) -> None:
        self.customers = customers_pb2_grpc.CustomerServiceStub(channel)
        self.loans = loans_pb2_grpc.LoanServiceStub(channel)
        self.payments = payments_pb2_grpc.PaymentServiceStub(channel)
        self.keys = api_keys_pb2_grpc.ApiKeyServiceStub(channel)
        self.otp = otp_pb2_grpc.OtpServiceStub(channel)
        self.journal = journal_pb2_grpc.JournalServiceStub(channel)
        self.imports = imports_pb2_grpc.ImportServiceStub(channel)
        self._tokens = tokens_pb2_grpc.TokenServiceStub(channel)
        self._header = token_header
        self._renewals: dict[str, tuple[float, asyncio.Task[tokens_pb2.Tokens]]] = {}

    async def log_in(
        self, email: str, password: str, context: RequestContext, **request: str
    ) -> tokens_pb2.CreateTokenResponse:
        """Try to log in.

        Raises:
            CallFailed: it is not allowed.
        """
        basic = base64.b64encode(f"{email}:{password}".encode()).decode()
        metadata = ((self._header, f"Basic {basic}"), *_forwarded(context))
        answer: tokens_pb2.CreateTokenResponse = await self._call(
            self._tokens.CreateToken, tokens_pb2.CreateTokenRequest(**request), metadata
        )
        return answer

    async def answer_challenge(self, challenge: str, code: str, context: RequestContext) -> tokens_pb2.CreateTokenResponse:
        """Answer the login's challenge with a one-time code.

        Raises:
            CallFailed: it is not right.
        """
        request = tokens_pb2.CreateTokenRequest(challenge=challenge, code=code)
        answer: tokens_pb2.CreateTokenResponse = await self._call(self._tokens.CreateToken, request, _forwarded(context))
        return answer

    async def log_out(self, context: RequestContext) -> None:
        """End the login, at every server.

        Raises:
            CallFailed: it has ended already.
        """
        await self.call(self._tokens.RevokeToken, tokens_pb2.RevokeTokenRequest(), context)

    async def call(self, rpc: Callable[..., Any], request: Any, context: RequestContext, idempotency_key: str = "") -> Any:
        """Call an RPC as the session's user; with an idempotency key, the same form sent twice takes effect once.

        Raises:
            CallFailed: the service says no.
        """
        metadata = await self._credentials(context)
        if idempotency_key:
            metadata = (*metadata, ("idempotency-key", idempotency_key))
        return await self._call(rpc, request, metadata)

    async def upload(self, chunks: AsyncIterator[bytes], name: str, context: RequestContext) -> imports_pb2.Import:
        """Upload a file of customers, as it arrives.

        Raises:
            CallFailed: the service says no.
        """
        metadata = (*await self._credentials(context), disposition(name))

        failures: list[Exception] = []

        async def bodies() -> AsyncIterator[HttpBody]:
            yield HttpBody(content_type="text/csv")
            try:
                async for chunk in chunks:
                    yield HttpBody(data=chunk)
            except Exception as failure:
                failures.append(failure)
                raise

        try:
            return await self.imports.UploadCustomers(bodies(), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error) from error
        except asyncio.CancelledError:
            # gRPC cancels the call when its requests end in an exception, and does not say which.
            if failures:
                raise failures[0] from None
            raise

    async def stream_events(
        self, request: journal_pb2.WatchEventsRequest, last_event_id: str, context: RequestContext
    ) -> AsyncIterator[bytes]:
        """Follow the journal; the call is made, and answered for the first time, when this returns.

        Raises:
            CallFailed: the service says no.
        """
        metadata = (*await self._credentials(context), *((("last-event-id", last_event_id),) if last_event_id else ()))
        call = self.journal.StreamEvents(request, metadata=metadata)
        bodies = aiter(call)
        try:
            first = await anext(bodies)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error) from error

        async def data() -> AsyncIterator[bytes]:
            try:
                yield first.data
                async for body in bodies:
                    yield body.data
            except grpc.aio.AioRpcError:
                return  # the browser connects again
            finally:
                call.cancel()

        return data()

    def keep(self, session: BrowserSession, tokens: tokens_pb2.Tokens) -> None:
        """Put tokens into the session."""
        session.access_token = tokens.access_token
        session.access_expires = tokens.access_expires_at.seconds
        session.refresh_token = tokens.refresh_token
        session.expires = tokens.session_expires_at.seconds

    async def _credentials(self, context: RequestContext) -> Metadata:
        session = context.session
        if session.access_expires - _MARGIN < time.time():
            self.keep(session, await self._renewed(session.refresh_token))
        return ((self._header, f"Bearer {session.access_token}"), *_forwarded(context))

    async def _renewed(self, refresh_token: str) -> tokens_pb2.Tokens:
        """The new pair of tokens. A refresh token can be used once, and two tabs may use the same one."""
        now = time.monotonic()
        self._renewals = {token: each for token, each in self._renewals.items() if now - each[0] < _REMEMBERED}
        if refresh_token not in self._renewals:
            request = tokens_pb2.RefreshTokenRequest(refresh_token=refresh_token)
            task = asyncio.ensure_future(self._call(self._tokens.RefreshToken, request, ()))
            self._renewals[refresh_token] = (now, task)

            def forget_failure(done: asyncio.Task[tokens_pb2.Tokens]) -> None:
                if done.cancelled() or done.exception():
                    self._renewals.pop(refresh_token, None)

            task.add_done_callback(forget_failure)
        return await asyncio.shield(self._renewals[refresh_token][1])

    async def _call(self, rpc: Callable[..., Any], request: Any, metadata: Metadata) -> Any:
        try:
            return await rpc(request, metadata=metadata, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error) from error


def login_id(access_token: str) -> str:
    """The login (`sid`) that an access token belongs to; it comes from the service itself, so it is not verified here."""
    payload = access_token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sid"])


def _forwarded(context: RequestContext) -> Metadata:
    """What the edge says of the request, for the call that it leads to."""
    told = {"x-forwarded-for": context.address, REQUEST_ID: safe_id(context.request.headers.get(REQUEST_ID, ""))}
    return tuple((name, value) for name, value in told.items() if value)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The reason of the error's ErrorInfo; empty where the service was not reached."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
