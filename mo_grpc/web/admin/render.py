"""Pages from templates."""

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from mo_grpc.auth.users.rules import Role
from mo_grpc.customers.rules import Status as CustomerStatus
from mo_grpc.formats import is_key_id
from mo_grpc.imports.rules import State as ImportState
from mo_grpc.journal.rules import Kind as EventKind
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.explanations import Outcome
from mo_grpc.payments.rules import RejectionKind
from mo_grpc.payments.rules import Status as PaymentStatus
from mo_grpc.web.admin import filters
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.assets import Assets


class Renderer:
    """Makes pages of the templates; `base` is the path that the admin is mounted at."""

    def __init__(self, base: str, assets: Assets) -> None:
        self._base = base
        environment = Environment(loader=PackageLoader("mo_grpc.web.admin"), autoescape=True, trim_blocks=True)
        environment.globals |= {
            "base": base,
            "asset": assets.url,
            "new_id": lambda: secrets.token_urlsafe(12),
            "is_key_id": is_key_id,
            "CustomerStatus": CustomerStatus,
            "LoanStatus": LoanStatus,
            "PaymentStatus": PaymentStatus,
            "RejectionKind": RejectionKind,
            "ImportState": ImportState,
            "EventKind": EventKind,
            "Outcome": Outcome,
            "Role": Role,
        }
        environment.filters |= {
            "money": filters.money,
            "number": filters.number,
            "day": filters.day,
            "when": filters.day_and_time,
            "bytes": filters.size,
            "words": filters.words,
        }
        self._templates = Jinja2Templates(env=environment)

    def page(self, context: RequestContext, name: str, status: int = 200, **values: Any) -> Response:
        """A page of a template."""
        shared = {
            "person": context.person,
            "csrf_token": context.session.csrf,
            "flash": context.session.take_flash(),
            "path": context.path.removeprefix(self._base),
            "query": dict(context.request.query_params),
            "link": _link(context),
        }
        return self._templates.TemplateResponse(context.request, name, shared | values, status)

    def message(self, context: RequestContext, status: int, title: str, text: str) -> Response:
        """A page that says one thing."""
        return self.page(context, "message.html", status, title=title, text=text)

    def confirm(
        self,
        context: RequestContext,
        template: str = "confirm.html",
        *,
        title: str,
        text: str,
        button: str,
        back: str,
        **values: Any,
    ) -> Response:
        """Ask before something is done that cannot be undone; the form goes to the page's own path, or to another one."""
        values = {"to": context.path.removeprefix(self._base), "danger": True, **values}
        return self.page(context, template, title=title, text=text, button=button, back=back, **values)


def _link(context: RequestContext) -> Callable[..., str]:
    """Makes links to this page with some parameters changed; an empty one goes."""

    def link(**changed: object) -> str:
        values = {**context.request.query_params, **changed}
        query = urlencode({name: value for name, value in values.items() if value not in ("", None)})
        return f"?{query}" if query else context.path

    return link
