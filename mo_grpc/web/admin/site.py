"""What all pages share: who visits, whether they may, forged forms, templates, and the answers to what goes wrong."""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import grpc
import structlog
from jinja2 import Environment, PackageLoader
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.rules import RejectionKind
from mo_grpc.payments.rules import Status as PaymentStatus
from mo_grpc.web.admin import charts
from mo_grpc.web.admin.api import Api, Refusal
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.rules import Person, is_from, printable_utf8
from mo_grpc.web.admin.sessions import Cookies, Session
from mo_grpc.web.assets import Assets
from mo_grpc.web.headers import address_of, policy

log = structlog.get_logger()

_POLICY = policy(form_action="'self'", img_src="'self'")

_STATIC = Path(__file__).parent / "static"
_ONCE = re.compile(r"[A-Za-z0-9_-]{16}")
"""What makes a form take effect once, as `new_id` makes it."""

NOBODY = Person(0, "", "", "", 1, False)


@dataclass
class Visit:
    """One request, and who makes it."""

    request: Request
    session: Session
    person: Person
    address: str
    form: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    """The fields of the form that come several times."""

    # The URL that Starlette makes up depends on the Host header, which may be anything.
    @property
    def path(self) -> str:
        """The path that was asked for."""
        return str(self.request.scope["path"])

    @property
    def query(self) -> str:
        """The query, as it was sent."""
        return bytes(self.request.scope["query_string"]).decode("latin-1")


Handler = Callable[[Visit], Awaitable[Response]]


class NotAllowedError(Exception):
    """The visitor may not do this; the message says why."""


class BadFormError(Exception):
    """What was sent is not the form of any page; the message says why."""


class NotHereError(Exception):
    """There is no such page; the message says what is missing."""


class Site:
    """The pages' surroundings."""

    def __init__(self, settings: Settings, database: Database, channel: grpc.aio.Channel) -> None:
        self.settings = settings
        self.base = settings.admin_url
        self.database = database
        self.vault = Vault(settings)
        self.api = Api(channel, settings.token_header)
        self._cookies = Cookies(self.vault, self.base, settings.mo_admin_idle_minutes * 60, tls=settings.tls)
        self._templates = Environment(loader=PackageLoader("mo_grpc.web.admin"), autoescape=True, trim_blocks=True)
        self.assets = Assets(f"{self.base}static/", {file.name: file.read_bytes() for file in _STATIC.iterdir()})
        self._templates.globals |= {"base": self.base, "asset": self.assets.url, "new_id": lambda: secrets.token_urlsafe(12)}
        self._templates.globals |= {"LoanStatus": LoanStatus, "PaymentStatus": PaymentStatus, "RejectionKind": RejectionKind}
        self._templates.filters |= {"money": _money, "number": "{:,}".format, "when": charts.day_and_time, "bytes": _bytes}

    def page(self, handler: Handler, scope: str = "", *, public: bool = False, streams: bool = False) -> Any:
        """An endpoint: `scope` is what the visitor must have; `public` needs no login; `streams` reads its own form."""
        settings = self.settings

        async def endpoint(request: Request) -> Response:
            session, before = self._cookies.read(request)
            visit = Visit(request, session, NOBODY, address_of(request, settings.mo_trusted_edges))
            try:
                response = await self._visit(visit, handler, scope, public=public, streams=streams)
            except NotAllowedError as error:
                response = self.message(visit, HTTPStatus.FORBIDDEN, "Not allowed", str(error))
            except BadFormError as error:
                response = self.message(visit, HTTPStatus.BAD_REQUEST, "Refused", str(error))
            except NotHereError as error:
                response = self.message(visit, HTTPStatus.NOT_FOUND, "Not found", str(error))
            except Refusal as refusal:
                response = self._refused(visit, refusal)
            except ServiceError as error:
                log.warning("page failed", path=visit.path, error=error.message)
                response = self.message(visit, HTTPStatus.SERVICE_UNAVAILABLE, "Not available", error.message)
            except Exception:
                # Left to uvicorn, it would end the connection, and with it the next visitor's request.
                log.exception("page failed", path=visit.path)
                response = self.message(visit, HTTPStatus.INTERNAL_SERVER_ERROR, "Not available", "This page does not work.")
            self._cookies.write(request, response, visit.session, before)
            response.headers["content-security-policy"] = _POLICY
            response.headers["cache-control"] = "no-store"
            return response

        return endpoint

    async def _visit(self, visit: Visit, handler: Handler, scope: str, *, public: bool, streams: bool) -> Response:
        request, session = visit.request, visit.session
        if session.login:
            visit.person = await self.find_person(session.login) or NOBODY
        if not public and not visit.person.id:
            return self._to_login(visit)
        if scope and not visit.person.may(scope):
            raise NotAllowedError(f"This needs more than the role {visit.person.role_name}.")
        if request.method == "POST":
            self.check_origin(visit)
            if not streams:
                visit.form, visit.lists = await _texts(request)
                self.check_token(visit, visit.form.get("csrf", ""))
        return await handler(visit)

    async def find_person(self, login: str) -> Person | None:
        """Whose login it is; None if it does not count, or not for these pages."""
        return await self.database.read(lambda connection: resources.find_person(connection, login))

    def check_origin(self, visit: Visit) -> None:
        """Refuse what another site sends; browsers say where a POST comes from.

        Raises:
            NotAllowedError: it comes from elsewhere.
        """
        origin = visit.request.headers.get("origin")
        if origin is not None and not is_from(origin, visit.request.headers.get("host", "")):
            raise NotAllowedError("This form was sent from another site.")

    def check_token(self, visit: Visit, token: str) -> None:
        """Refuse a form that is not from a page of this session.

        Raises:
            NotAllowedError: it is not.
        """
        if visit.session.is_forged(token):
            raise NotAllowedError("This form is not from this session: please load its page again.")

    def render(self, visit: Visit, name: str, status: int = 200, **values: Any) -> Response:
        """A page of a template."""
        template = self._templates.get_template(name)
        content = template.render(
            visit=visit,
            person=visit.person,
            csrf_token=visit.session.csrf,
            flash=visit.session.take_flash(),
            path=visit.path.removeprefix(self.base),
            query=dict(visit.request.query_params),
            link=self._link(visit),
            **values,
        )
        return HTMLResponse(content, status)

    def message(self, visit: Visit, status: int, title: str, text: str) -> Response:
        """A page that says one thing."""
        return self.render(visit, "message.html", status, title=title, text=text)

    def ask(
        self, visit: Visit, template: str = "confirm.html", *, title: str, text: str, button: str, back: str, **values: Any
    ) -> Response:
        """Ask before something is done that cannot be undone; the form goes to the page's own path, or to another one."""
        values = {"to": visit.path.removeprefix(self.base), "danger": True, **values}
        return self.render(visit, template, title=title, text=text, button=button, back=back, **values)

    def go(self, path: str) -> Response:
        """Send the browser to another page, by GET."""
        return RedirectResponse(f"{self.base}{path}", HTTPStatus.SEE_OTHER)

    async def act(
        self, visit: Visit, rpc: Callable[..., Any], request: Any, *, done: str, to: str, once: bool = True
    ) -> Response:
        """Call an RPC for the visitor, say what became of it, and go on."""
        key = visit.form.get("once", "") if once else ""
        if key and not _ONCE.fullmatch(key):
            raise BadFormError("The form is damaged.")
        try:
            await self.api.call(rpc, request, visit.session, visit.address, key)
        except Refusal as refusal:
            if refusal.code == grpc.StatusCode.UNAUTHENTICATED:
                raise
            visit.session.say(refusal.message[:300], "bad")
        else:
            visit.session.say(done)
        return self.go(to)

    def end(self, visit: Visit) -> None:
        """Forget the login in this browser."""
        visit.session, visit.person = Session(seen=visit.session.seen), NOBODY

    def _to_login(self, visit: Visit) -> Response:
        ended = bool(visit.session.login)
        if ended:
            self.end(visit)
            visit.session.say("Your login has ended; please log in again.", "note")
        wanted = visit.path.removeprefix(self.base)
        if visit.query:
            wanted += f"?{visit.query}"
        back = f"?next={quote(wanted)}" if visit.request.method == "GET" and wanted else ""
        return self.go(f"login{back}")

    def _refused(self, visit: Visit, refusal: Refusal) -> Response:
        if refusal.code == grpc.StatusCode.UNAUTHENTICATED:
            return self._to_login(visit)
        status = HTTPStatus.FORBIDDEN if refusal.code == grpc.StatusCode.PERMISSION_DENIED else HTTPStatus.BAD_REQUEST
        return self.message(visit, status, "Refused", refusal.message)

    def _link(self, visit: Visit) -> Callable[..., str]:
        """Makes links to this page with some parameters changed; an empty one goes."""

        def link(**changed: object) -> str:
            values = {**visit.request.query_params, **changed}
            query = urlencode({name: value for name, value in values.items() if value not in ("", None)})
            return f"?{query}" if query else visit.path

        return link


async def _texts(request: Request) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The texts of a form.

    Raises:
        BadFormError: it is damaged, or in an encoding that no browser uses.
    """
    try:
        form = await request.form(max_fields=200, max_files=0)
    except (HTTPException, ClientDisconnect, ValueError) as error:
        raise BadFormError("The form is damaged.") from error
    lists: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            lists.setdefault(name, []).append(printable_utf8(value))
    return {name: values[0] for name, values in lists.items()}, lists


def _money(amount: Any) -> str:
    return f"{amount:,.2f}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return ""
