"""Logging in and out: the password, then a one-time code if the user has them, then a new password if it must be changed."""

import grpc
from mo.auth.v1 import tokens_pb2
from starlette.responses import Response

from mo_grpc.web.admin.client import CallFailed, login_id
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.admin.rules import page_of_ours
from mo_grpc.web.admin.site import Site

_WAIT = "Too many attempts failed; please wait some minutes."


class LoginPages:
    """The pages before the login, and the one that ends it."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def show(self, context: RequestContext) -> Response:
        """Ask for e-mail and password."""
        if context.person.id:
            return self._site.redirect("")
        return self._page(context, "login.html")

    async def log_in(self, context: RequestContext) -> Response:
        """Take e-mail and password."""
        email = context.form.get("email", "").strip()
        context.session.email = email[:254]
        return await self._attempt(context, "login.html", email, context.form.get("password", ""))

    async def show_code(self, context: RequestContext) -> Response:
        """Ask for the one-time code."""
        return self._page(context, "code.html") if context.session.challenge else self._site.redirect("login")

    async def check_code(self, context: RequestContext) -> Response:
        """Take the one-time code."""
        try:
            challenge, code = context.session.challenge, context.form.get("code", "").strip()
            answer = await self._site.client.answer_challenge(challenge, code, context)
        except CallFailed as failure:
            return self._again(context, "code.html", failure, "The code is not right, or the login took too long.")
        return await self._enter(context, answer.tokens)

    async def show_password(self, context: RequestContext) -> Response:
        """Ask for a new password."""
        return self._page(context, "password.html")

    async def change_password(self, context: RequestContext) -> Response:
        """Take a new password, with the old one and perhaps a code."""
        new = context.form.get("new_password", "")
        if new != context.form.get("again", ""):
            return self._page(context, "password.html", "The two new passwords are not the same.")
        email = context.form.get("email", "").strip() or context.session.email
        old, code = context.form.get("password", ""), context.form.get("code", "").strip()
        return await self._attempt(context, "password.html", email, old, new_password=new, code=code)

    async def log_out(self, context: RequestContext) -> Response:
        """End the login."""
        try:
            await self._site.client.log_out(context)
        except CallFailed as failure:
            # It has ended already, which is what was asked for.
            if failure.code != grpc.StatusCode.UNAUTHENTICATED:
                raise
        context.end_session()
        context.session.say("You are logged out.")
        return self._site.redirect("login")

    async def _attempt(self, context: RequestContext, page: str, email: str, password: str, **request: str) -> Response:
        try:
            answer = await self._site.client.log_in(email, password, context, **request)
        except CallFailed as failure:
            if failure.reason == "PASSWORD_CHANGE_REQUIRED" and page != "password.html":
                context.session.email = email
                return self._site.redirect(f"password{self._next(context)}")
            return self._again(context, page, failure, "The e-mail or the password is not right.")
        if answer.HasField("otp_challenge"):
            if page == "password.html":
                return self._page(context, page, "A one-time code is needed, too.")
            context.session.challenge = answer.otp_challenge.challenge
            return self._site.redirect(f"login/code{self._next(context)}")
        return await self._enter(context, answer.tokens)

    async def _enter(self, context: RequestContext, tokens: tokens_pb2.Tokens) -> Response:
        login = login_id(tokens.access_token)
        self._site.client.keep(context.session, tokens)
        context.session.begin(login)
        if not await self._site.find_person(login):
            await self._site.client.log_out(context)
            context.end_session()
            return self._page(context, "login.html", "This user may not use the web admin.", 403)
        return self._site.redirect(page_of_ours(context.request.query_params.get("next", "")))

    def _again(self, context: RequestContext, page: str, failure: CallFailed, wrong: str) -> Response:
        if failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self._page(context, page, _WAIT if failure.reason == "TOO_MANY_ATTEMPTS" else failure.message, 429)
        if failure.code == grpc.StatusCode.UNAUTHENTICATED:
            return self._page(context, page, wrong, 401)
        message = failure.message.replace("new_password:", "The new password").replace("code:", "The code")
        return self._page(context, page, message, 400)

    def _page(self, context: RequestContext, name: str, fault: str = "", status: int = 200) -> Response:
        status = 400 if fault and status == 200 else status
        return self._site.render.page(context, name, status, fault=fault, email=context.session.email, next=self._next(context))

    def _next(self, context: RequestContext) -> str:
        query = context.query
        return f"?{query}" if query else ""
