"""What all pages share: checks of access, calls of RPCs, and error pages."""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import structlog
from mo.errors.v1.error_reason_pb2 import ErrorReason
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.rpc.metadata import REQUEST_ID
from mo_grpc.web.admin.client import CallFailed, Client
from mo_grpc.web.admin.context import NOBODY, BadFormError, NotAllowedError, NotHereError, RequestContext
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.render import Renderer
from mo_grpc.web.admin.rules import Person
from mo_grpc.web.admin.sessions import Cookies
from mo_grpc.web.assets import Assets
from mo_grpc.web.headers import address_of, policy

log = structlog.get_logger()

_POLICY = policy(form_action="'self'", img_src="'self'")

_STATIC = Path(__file__).parent / "static"
_ONCE = re.compile(r"[A-Za-z0-9_-]{16}")
"""What makes a form take effect once, as a template's `new_id` makes it."""

Handler = Callable[[RequestContext], Awaitable[Response]]


class Site:
    """The pages' surroundings."""

    def __init__(self, settings: Settings, database: Database, channel: grpc.aio.Channel) -> None:
        self.settings = settings
        self.base = settings.admin_url
        self.database = database
        self.vault = Vault(settings)
        self.client = Client(channel, settings.token_header)
        self.assets = Assets(f"{self.base}static/", {file.name: file.read_bytes() for file in _STATIC.iterdir()})
        self.render = Renderer(self.base, self.assets)
        self._cookies = Cookies(self.vault, self.base, settings.mo_admin_idle_minutes * 60, tls=settings.tls)

    def endpoint(self, handler: Handler, scope: str = "", *, public: bool = False, streams: bool = False) -> Any:
        """An endpoint: `scope` is what the person must have; `public` needs no login; `streams` reads its own form."""
        settings = self.settings

        async def endpoint(request: Request) -> Response:
            session, before = self._cookies.read(request)
            context = RequestContext(request, session, NOBODY, address_of(request, settings.mo_trusted_edges))
            # Not the path, which has ids of customers.
            about = {"page": handler.__qualname__, "request_id": request.headers.get(REQUEST_ID, "")}
            try:
                response = await self._answer(context, handler, scope, public=public, streams=streams)
            except NotAllowedError as error:
                response = self.render.message(context, HTTPStatus.FORBIDDEN, "Not allowed", str(error))
            except BadFormError as error:
                response = self.render.message(context, HTTPStatus.BAD_REQUEST, "Refused", str(error))
            except NotHereError as error:
                response = self.render.message(context, HTTPStatus.NOT_FOUND, "Not found", str(error))
            except CallFailed as failure:
                response = self._failed(context, failure)
            except ServiceError as error:
                log.warning("page failed", **about, reason=ErrorReason.Name(error.reason))
                response = self.render.message(context, HTTPStatus.SERVICE_UNAVAILABLE, "Not available", error.message)
            except Exception:
                # Left to uvicorn, it would end the connection, and with it the next visitor's request.
                log.exception("page failed", **about)
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                response = self.render.message(context, status, "Not available", "This page does not work.")
            self._cookies.write(request, response, context.session, before)
            response.headers["content-security-policy"] = _POLICY
            response.headers["cache-control"] = "no-store"
            return response

        return endpoint

    async def _answer(self, context: RequestContext, handler: Handler, scope: str, *, public: bool, streams: bool) -> Response:
        if context.session.login:
            context.person = await self.find_person(context.session.login) or NOBODY
        if not public and not context.person.id:
            return self._to_login(context)
        if scope and not context.person.may(scope):
            raise NotAllowedError(f"This needs more than the role {context.person.role_name}.")
        if context.request.method == "POST":
            context.check_origin()
            if not streams:
                await context.read_form()
                context.check_token(context.form.get("csrf", ""))
        return await handler(context)

    async def find_person(self, login: str) -> Person | None:
        """The user of a login; None if it has ended, or the user may not use these pages."""
        return await self.database.read(lambda connection: resources.find_person(connection, login))

    def redirect(self, path: str) -> Response:
        """Send the browser to another page, by GET."""
        return RedirectResponse(f"{self.base}{path}", HTTPStatus.SEE_OTHER)

    def refuse(self, context: RequestContext, reason: str, to: str) -> Response:
        """Send the browser to another page, which says why nothing was done."""
        context.session.say(reason[:300], "bad")
        return self.redirect(to)

    async def call_rpc(
        self, context: RequestContext, rpc: Callable[..., Any], request: Any, *, done: str, to: str, once: bool = True
    ) -> Response:
        """Call an RPC for the person, leave a message about what became of it, and redirect."""
        key = context.form.get("once", "") if once else ""
        if key and not _ONCE.fullmatch(key):
            raise BadFormError("The form is damaged.")
        try:
            await self.client.call(rpc, request, context, key)
        except CallFailed as failure:
            if failure.code == grpc.StatusCode.UNAUTHENTICATED:
                raise
            return self.refuse(context, failure.message, to)
        context.session.say(done)
        return self.redirect(to)

    def _to_login(self, context: RequestContext) -> Response:
        if context.session.login:
            context.end_session()
            context.session.say("Your login has ended; please log in again.", "note")
        wanted = context.path.removeprefix(self.base)
        if context.query:
            wanted += f"?{context.query}"
        back = f"?next={quote(wanted)}" if context.request.method == "GET" and wanted else ""
        return self.redirect(f"login{back}")

    def _failed(self, context: RequestContext, failure: CallFailed) -> Response:
        if failure.code == grpc.StatusCode.UNAUTHENTICATED:
            return self._to_login(context)
        status = HTTPStatus.FORBIDDEN if failure.code == grpc.StatusCode.PERMISSION_DENIED else HTTPStatus.BAD_REQUEST
        return self.render.message(context, status, "Refused", failure.message)
