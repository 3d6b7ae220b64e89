"""The honeypot's pages: they look and answer as Django's admin does to somebody who is not logged in."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Receive, Scope, Send

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.telemetry.counts import Happening, count
from mo_grpc.web.headers import address_of
from mo_grpc.web.honeypot import django
from mo_grpc.web.honeypot.rules import AttemptCounter, StorageLimit, attempt, wait
from mo_grpc.web.honeypot.store import add_attempts

MAX_WAITING = 50
"""Attempts that wait at a time; further ones are answered at once, so that other requests are not delayed."""

MAX_FORM = 16 * 1024
STATIC_URL = "/static/admin"
"""Where Django's admin has its files, wherever its pages are."""

_HERE = Path(__file__).parent
_TEMPLATES = Jinja2Templates(_HERE / "templates")
# Pages that Django does not forbid to cache, for reasons of its own.
_CACHEABLE = ("jsi18n/", "password_change/", "password_change/done/")


def routes(settings: Settings, database: Database) -> list[BaseRoute]:
    """The honeypot, at its path."""
    honeypot = Honeypot(settings, database)
    url = settings.admin_honeypot_url
    return [
        # Instances take every method.
        Route(url.rstrip("/"), honeypot),
        Route(f"{url}{{rest:path}}", honeypot),
        Mount(STATIC_URL, StaticFiles(directory=_HERE / "static")),
    ]


class Honeypot:
    """Answers each request, records attempts to log in, and slows down who repeats them."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._url = settings.admin_honeypot_url
        self._trusted = settings.mo_trusted_edges
        self._answers = django.Answers(secure=settings.tls, hsts_seconds=settings.mo_hsts_seconds)
        self._database = database
        self._counter = AttemptCounter()
        self._limit = StorageLimit()
        self._waiting = asyncio.Semaphore(MAX_WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Django's admin does to somebody who is not logged in."""
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        # The URL that Starlette makes up depends on the Host header, which may be anything.
        path, query = str(request.scope["path"]), request.scope["query_string"].decode("latin-1")
        full, below, now = django.full_path(path, query), path.removeprefix(self._url), time.time()
        if path == self._url.rstrip("/"):
            return self._answers.moved(django.full_path(f"{path}/", query))
        posted = {}
        if request.method not in django.SAFE:
            posted = parse_qs((await _body(request)).decode("utf-8", "replace"), keep_blank_values=True)
            if below == "login/":
                await self._record(request, posted.get("username", [""])[-1])
            if (refusal := self._forged(request, posted)) is not None:
                return refusal
        if below == "logout/":
            return self._answers.redirect(self._url, now)
        if below != "login/":
            login = f"{self._url}login/?next={quote(full)}"
            return self._answers.redirect(login, None if below in _CACHEABLE else now)
        if request.method not in ("GET", "HEAD", "POST", "PUT"):
            return self._answers.allowed(200 if request.method == "OPTIONS" else 405, now)
        return self._login(request, full, posted, now)

    def _forged(self, request: Request, posted: Mapping[str, list[str]]) -> Response | None:
        """Django's refusal of a form that is not of a page of its own, if it is none."""
        secret = django.secret_of(request.cookies.get(django.COOKIE, ""))
        sent = posted.get("csrfmiddlewaretoken", [""])[-1] or request.headers.get("x-csrftoken", "")
        origin = request.headers.get("origin")
        elsewhere = origin is not None and origin.partition("://")[2] != request.headers.get("host")
        if secret and not elsewhere and django.secret_of(sent) == secret:
            return None
        return self._answers.forbidden(_render("honeypot_forbidden.html", cookie=bool(secret) or elsewhere))

    def _login(self, request: Request, full: str, posted: Mapping[str, list[str]], now: float) -> Response:
        """The form; whatever is filled in is wrong."""
        username, password = (posted.get(name, [""])[-1] for name in ("username", "password"))
        username = username.strip()
        tried = request.method in ("POST", "PUT")
        secret = django.secret_of(request.cookies.get(django.COOKIE, "")) or django.new_secret()
        wanted = (posted.get("next") or [request.query_params.get("next", self._url)])[-1]
        content = _render(
            "honeypot_login.html",
            url=self._url,
            static=STATIC_URL,
            action=full,
            tried=tried,
            faults=django.faults(username, password) if tried else {},
            username=username[:254],
            token=django.token(secret),
            next=django.next_page(wanted),
        )
        return self._answers.page(content, secret, now)

    async def _record(self, request: Request, username: str) -> None:
        address = address_of(request, self._trusted)
        now = time.monotonic()
        tries = self._counter.count(address, now)
        stored = False
        if self._limit.take(tries, now):
            kept = attempt(address, request.headers.get("user-agent", ""), request.scope["path"], username)
            with suppress(ServiceError):  # the answer does not tell that the database is away
                await self._database.write(lambda connection: add_attempts(connection, [kept]))
                stored = True
        count(Happening.HONEYPOT_ATTEMPT, "yes" if stored else "no")
        if (seconds := wait(tries)) and not self._waiting.locked():
            async with self._waiting:
                await asyncio.sleep(seconds)


def _render(name: str, **values: Any) -> str:
    return _TEMPLATES.get_template(name).render(values)


async def _body(request: Request) -> bytes:
    """As much of a form as any login needs."""
    body = b""
    with suppress(ClientDisconnect):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                break
    return body[:MAX_FORM]
