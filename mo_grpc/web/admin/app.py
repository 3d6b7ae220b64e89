"""The web admin as an application, to be mounted at ADMIN_URL."""

import grpc
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database
from mo_grpc.web.admin.context import NotHereError, RequestContext
from mo_grpc.web.admin.pages.audit_log import AuditLogPage
from mo_grpc.web.admin.pages.business import BusinessPages
from mo_grpc.web.admin.pages.dashboard import Dashboard
from mo_grpc.web.admin.pages.events import EventStream
from mo_grpc.web.admin.pages.imports import ImportPages
from mo_grpc.web.admin.pages.keys import KeyPages
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.pages.login import LoginPages
from mo_grpc.web.admin.pages.statements import StatementPages
from mo_grpc.web.admin.pages.users import UserPages
from mo_grpc.web.admin.queries.lists import HONEYPOT
from mo_grpc.web.admin.rules import ADMINISTRATION
from mo_grpc.web.admin.site import Handler, Site


def make_admin(settings: Settings, database: Database, channel: grpc.aio.Channel) -> Starlette:
    """Build the admin. It reads from the database, and changes things by calls over the channel."""
    site = Site(settings, database, channel)
    routes = [*_login(site), *_business(site), *_imports(site), *_keys(site), *_users(site)]
    routes.append(_route(site, "/", Dashboard(site).show, "loans:read"))
    routes.append(_route(site, "/events:stream", EventStream(site).follow, "events:read"))

    async def missing(context: RequestContext) -> Response:
        raise NotHereError("There is no such page.")

    page = site.endpoint(missing, public=True)

    async def not_found(request: Request, _: Exception) -> Response:
        answer: Response = await page(request)
        return answer

    handlers = {404: not_found, 405: not_found, HTTPException: not_found}
    return Starlette(routes=[site.assets.route("/static/"), *routes], exception_handlers=handlers)


def _route(
    site: Site, path: str, handler: Handler, scope: str = "", *, post: bool = False, public: bool = False, streams: bool = False
) -> Route:
    endpoint = site.endpoint(handler, scope, public=public, streams=streams)
    return Route(path, endpoint, methods=["POST" if post else "GET"])


def _login(site: Site) -> list[Route]:
    pages = LoginPages(site)
    return [
        _route(site, "/login", pages.show, public=True),
        _route(site, "/login", pages.log_in, public=True, post=True),
        _route(site, "/login/code", pages.show_code, public=True),
        _route(site, "/login/code", pages.check_code, public=True, post=True),
        _route(site, "/password", pages.show_password, public=True),
        _route(site, "/password", pages.change_password, public=True, post=True),
        _route(site, "/logout", pages.log_out, post=True),
    ]


def _business(site: Site) -> list[Route]:
    pages, statements = BusinessPages(site), StatementPages(site)
    return [
        _route(site, "/customers", pages.customers.show, "customers:read"),
        _route(site, "/customers.csv", pages.customers.download, "customers:read"),
        _route(site, "/customers/{external_id}", pages.customer, "customers:read"),
        _route(site, "/customers/{external_id}", pages.change_customer, "customers:write", post=True),
        _route(site, "/customers/{external_id}/statement", statements.show, "events:read"),
        _route(site, "/customers/{external_id}/statement.csv", statements.download, "events:read"),
        _route(site, "/loans", pages.loans.show, "loans:read"),
        _route(site, "/loans.csv", pages.loans.download, "loans:read"),
        _route(site, "/loans/{external_id}", pages.loan, "loans:read"),
        _route(site, "/loans/{external_id}/{verb}", pages.confirm_loan, "loans:write"),
        _route(site, "/loans/{external_id}/{verb}", pages.change_loan, "loans:write", post=True),
        _route(site, "/payments", pages.payments.show, "payments:read"),
        _route(site, "/payments.csv", pages.payments.download, "payments:read"),
        _route(site, "/payments/{external_id}", pages.payment, "payments:read"),
        _route(site, "/payments/{external_id}/reject", pages.confirm_rejection, "payments:write"),
        _route(site, "/payments/{external_id}/reject", pages.reject_payment, "payments:write", post=True),
    ]


def _imports(site: Site) -> list[Route]:
    pages = ImportPages(site)
    return [
        _route(site, "/imports", pages.show_list, "imports:read"),
        _route(site, "/imports", pages.upload, "imports:write", post=True, streams=True),
        _route(site, "/imports/{id}", pages.show, "imports:read"),
        _route(site, "/imports/{id}/errors.csv", pages.errors, "imports:read"),
        _route(site, "/imports/{id}/cancel", pages.confirm_cancel, "imports:write"),
        _route(site, "/imports/{id}/cancel", pages.cancel, "imports:write", post=True),
    ]


def _keys(site: Site) -> list[Route]:
    pages = KeyPages(site)
    return [
        _route(site, "/keys", pages.show_list, "keys:read"),
        _route(site, "/keys", pages.create, "keys:write", post=True),
        _route(site, "/keys/new", pages.show_form, "keys:write"),
        _route(site, "/keys/{id}", pages.show, "keys:read"),
        _route(site, "/keys/{id}/rotate", pages.confirm_rotation, "keys:write"),
        _route(site, "/keys/{id}/rotate", pages.rotate, "keys:write", post=True),
        _route(site, "/keys/{id}/revoke", pages.confirm_revocation, "keys:write"),
        _route(site, "/keys/{id}/revoke", pages.revoke, "keys:write", post=True),
    ]


def _users(site: Site) -> list[Route]:
    pages = UserPages(site)
    return [
        _route(site, "/users", pages.show_list, ADMINISTRATION),
        _route(site, "/users", pages.create, ADMINISTRATION, post=True),
        _route(site, "/users/new", pages.show_form, ADMINISTRATION),
        _route(site, "/users/{id}", pages.show, ADMINISTRATION),
        _route(site, "/users/{id}", pages.change, ADMINISTRATION, post=True),
        _route(site, "/users/{id}/{action}", pages.confirm, ADMINISTRATION),
        _route(site, "/audit-log", AuditLogPage(site).show, ADMINISTRATION),
        _route(site, "/honeypot", ListPage(site, HONEYPOT, "honeypot.html").show, ADMINISTRATION),
    ]
