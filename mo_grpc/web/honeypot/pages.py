"""The trap's pages: they look and answer as Django's admin does to somebody who is not logged in."""

import asyncio
import secrets
import time
from pathlib import Path
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.templating import Jinja2Templates

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.web.headers import address_of
from mo_grpc.web.honeypot.rules import Repeaters, Room, attempt, wait
from mo_grpc.web.honeypot.store import add_attempts

MAX_WAITING = 50
"""Attempts that wait at a time; further ones are answered at once, so that the trap holds nothing up but who is in it."""

MAX_FORM = 16 * 1024
COOKIE = "csrftoken"

_WEB = Path(__file__).parent.parent
_TEMPLATES = Jinja2Templates(_WEB / "templates")


def routes(settings: Settings, database: Database) -> list[BaseRoute]:
    """The trap, at its path; and what it counts, which Envoy leads nobody to."""
    trap = Honeypot(settings, database)
    url = settings.admin_honeypot_url
    return [
        Route(url.rstrip("/"), trap.to_login),
        Route(f"{url}static/base.css", trap.style),
        Route(f"{url}login/", trap.login, methods=["GET", "POST"]),
        Route(f"{url}{{rest:path}}", trap.to_login, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/metrics", trap.metrics),
    ]


class Honeypot:
    """Answers, remembers, and slows down."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._url = settings.admin_honeypot_url
        self._trusted = settings.mo_trusted_edges
        self._secure = settings.tls
        self._database = database
        self._repeaters = Repeaters()
        self._room = Room()
        self._waiting = asyncio.Semaphore(MAX_WAITING)
        self._attempts = self._unstored = 0

    async def to_login(self, request: Request) -> Response:
        """Every page asks to log in first."""
        if not request.url.path.endswith("/"):
            return RedirectResponse(f"{request.url.path}/", status_code=301)
        return RedirectResponse(f"{self._url}login/?next={quote(request.url.path)}", status_code=302)

    async def style(self, _: Request) -> Response:
        """The pages' style."""
        return FileResponse(_WEB / "static" / "honeypot.css")

    async def login(self, request: Request) -> Response:
        """The form; whatever is filled in is wrong."""
        username, error, status = "", "", 200
        if request.method == "POST":
            form = parse_qs((await _body(request)).decode("utf-8", "replace"), keep_blank_values=True)
            username = form.get("username", [""])[-1]
            await self._caught(request, username)
            token = form.get("csrfmiddlewaretoken", [""])[-1]
            if not token or COOKIE not in request.cookies:
                return _TEMPLATES.TemplateResponse(request, "honeypot_forbidden.html", status_code=403)
            error = "wrong" if form.get("password", [""])[-1] and username else "empty"
        context = {"url": self._url, "username": username[:254], "error": error, "token": secrets.token_hex(32)}
        context["next"] = request.query_params.get("next", self._url)
        response = _TEMPLATES.TemplateResponse(request, "honeypot_login.html", context, status_code=status)
        response.headers["vary"] = "Cookie"
        cookie = request.cookies.get(COOKIE) or secrets.token_hex(16)
        response.set_cookie(COOKIE, cookie[:64], max_age=31_449_600, samesite="lax", secure=self._secure)
        return response

    async def metrics(self, _: Request) -> Response:
        """What it counted since the start, for Prometheus."""
        numbers = {"mo_honeypot_attempts_total": self._attempts, "mo_honeypot_attempts_unstored_total": self._unstored}
        return PlainTextResponse("".join(f"# TYPE {name} counter\n{name} {number}\n" for name, number in numbers.items()))

    async def _caught(self, request: Request, username: str) -> None:
        self._attempts += 1
        address = address_of(request, self._trusted)
        now = time.monotonic()
        count = self._repeaters.count(address, now)
        if self._room.take(count, now):
            kept = attempt(address, request.headers.get("user-agent", ""), request.url.path, username)
            try:
                await self._database.write(lambda connection: add_attempts(connection, [kept]))
            except ServiceError:  # whoever is in the trap need not know that the database is away
                self._unstored += 1
        else:
            self._unstored += 1
        if (seconds := wait(count)) and not self._waiting.locked():
            async with self._waiting:
                await asyncio.sleep(seconds)


async def _body(request: Request) -> bytes:
    """As much of a form as any login needs."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            break
    return body[:MAX_FORM]
