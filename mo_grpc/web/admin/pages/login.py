"""Logging in and out: the password, then a one-time code where there is one; a new password where it must be changed."""

import grpc
from mo.auth.v1 import tokens_pb2
from starlette.responses import Response

from mo_grpc.web.admin.api import Refusal, login_id
from mo_grpc.web.admin.rules import page_of_ours
from mo_grpc.web.admin.site import Site, Visit

_WAIT = "Too many attempts failed; please wait some minutes."


class LoginPages:
    """The pages before the login, and the one that ends it."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def show(self, visit: Visit) -> Response:
        """Ask for e-mail and password."""
        if visit.person.id:
            return self._site.go("")
        return self._page(visit, "login.html")

    async def log_in(self, visit: Visit) -> Response:
        """Take e-mail and password."""
        email = visit.form.get("email", "").strip()
        visit.session.email = email[:254]
        return await self._attempt(visit, "login.html", email, visit.form.get("password", ""))

    async def show_code(self, visit: Visit) -> Response:
        """Ask for the one-time code."""
        return self._page(visit, "code.html") if visit.session.challenge else self._site.go("login")

    async def check_code(self, visit: Visit) -> Response:
        """Take the one-time code."""
        try:
            challenge, code = visit.session.challenge, visit.form.get("code", "").strip()
            answer = await self._site.api.answer_challenge(challenge, code, visit.address)
        except Refusal as refusal:
            return self._again(visit, "code.html", refusal, "The code is not right, or the login took too long.")
        return await self._enter(visit, answer.tokens)

    async def show_password(self, visit: Visit) -> Response:
        """Ask for a new password."""
        return self._page(visit, "password.html")

    async def change_password(self, visit: Visit) -> Response:
        """Take a new password, with the old one and perhaps a code."""
        new = visit.form.get("new_password", "")
        if new != visit.form.get("again", ""):
            return self._page(visit, "password.html", "The two new passwords are not the same.")
        email = visit.form.get("email", "").strip() or visit.session.email
        old, code = visit.form.get("password", ""), visit.form.get("code", "").strip()
        return await self._attempt(visit, "password.html", email, old, new_password=new, code=code)

    async def log_out(self, visit: Visit) -> Response:
        """End the login everywhere it counts."""
        try:
            await self._site.api.log_out(visit.session, visit.address)
        except Refusal as refusal:
            # One that has ended already is what was wanted.
            if refusal.code != grpc.StatusCode.UNAUTHENTICATED:
                raise
        self._site.end(visit)
        visit.session.say("You are logged out.")
        return self._site.go("login")

    async def _attempt(self, visit: Visit, page: str, email: str, password: str, **request: str) -> Response:
        try:
            answer = await self._site.api.log_in(email, password, visit.address, **request)
        except Refusal as refusal:
            if refusal.reason == "PASSWORD_CHANGE_REQUIRED" and page != "password.html":
                visit.session.email = email
                return self._site.go(f"password{self._next(visit)}")
            return self._again(visit, page, refusal, "The e-mail or the password is not right.")
        if answer.HasField("otp_challenge"):
            if page == "password.html":
                return self._page(visit, page, "A one-time code is needed, too.")
            visit.session.challenge = answer.otp_challenge.challenge
            return self._site.go(f"login/code{self._next(visit)}")
        return await self._enter(visit, answer.tokens)

    async def _enter(self, visit: Visit, tokens: tokens_pb2.Tokens) -> Response:
        login = login_id(tokens.access_token)
        self._site.api.keep(visit.session, tokens)
        visit.session.begin(login)
        if not await self._site.find_person(login):
            await self._site.api.log_out(visit.session, visit.address)
            self._site.end(visit)
            return self._page(visit, "login.html", "This account may not use these pages.", 403)
        return self._site.go(page_of_ours(visit.request.query_params.get("next", "")))

    def _again(self, visit: Visit, page: str, refusal: Refusal, wrong: str) -> Response:
        if refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self._page(visit, page, _WAIT if refusal.reason == "TOO_MANY_ATTEMPTS" else refusal.message, 429)
        if refusal.code == grpc.StatusCode.UNAUTHENTICATED:
            return self._page(visit, page, wrong, 401)
        message = refusal.message.replace("new_password:", "The new password").replace("code:", "The code")
        return self._page(visit, page, message, 400)

    def _page(self, visit: Visit, name: str, fault: str = "", status: int = 200) -> Response:
        status = 400 if fault and status == 200 else status
        return self._site.render(visit, name, status, fault=fault, email=visit.session.email, next=self._next(visit))

    def _next(self, visit: Visit) -> str:
        query = visit.query
        return f"?{query}" if query else ""
