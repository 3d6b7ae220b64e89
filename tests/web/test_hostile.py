"""Whatever is sent to a page, it is an answer of its own, never a fault of the service's, and the next visitor has theirs."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from starlette.routing import BaseRoute, Route

import mo_grpc.web.admin
from mo_grpc.auth.users.rules import Role
from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.web.admin.app import make_admin
from mo_grpc.web.honeypot import pages as honeypot
from mo_grpc.web.reference import pages as reference
from tests.conftest import TLS, Stack
from tests.web.admin.conftest import Visitor, admin_url, logged_in, new_visitor  # noqa: F401 - fixtures
from tests.web.test_honeypot import inside

LoggedIn = Callable[..., Visitor]

# As they are written in an address or a form: too many digits, digits that are none of ASCII, NUL, half of a surrogate, half
# of an IPv6 address, a line, markup, and nothing.
HOSTILE = ("9" * 5000, "%D9%A3", "%C2%B2", "a%00b", "%ED%B3%BF", "http://[", "%0D%0Aa:%20b", "%22%3E%3Cb%3E", "-1", "")
QUERIES = ("search", "status", "customer", "sort", "before", "after", "next", "stream")
# Their charset is taken for the form's texts: one that Python refuses, and one that makes halves of surrogates.
MULTIPART = ("undefined", "utf-7", "idna", "no-such-charset")
HEADERS: dict[str, tuple[bytes, ...]] = {
    "origin": (b"http://[", b"null", b"\xff", b"http://", b"a" * 5000),
    "host": (b"[", b"http://[", b"a/../b", b"\xff", b"[::1]:x", b""),
    "referer": (b"http://[", b"\xff"),
    "cookie": (b"mo_admin=\xff; csrftoken=\xff", b"mo_admin=====", b"mo_admin=" + b"A" * 5000, b'csrftoken="\\000"', b";=;"),
    "x-forwarded-proto": (b"\xff", b"https, http"),
    "user-agent": (b"\xff" * 500, b""),
    "accept-encoding": (b"gzip;q=x", b"*;q=0", b"\xff"),
    "if-none-match": (b'"', b"*", b"W/", b"\xff"),
    "if-modified-since": (b"yesterday", b"\xff"),
    "range": (b"bytes=9-1", b"bytes=" + b"9" * 5000 + b"-", b"lines=a", b"\xff"),
    "content-type": (
        b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"x" * 300, b"\xff",
        b"application/x-www-form-urlencoded; charset=undefined",
    ),
}  # fmt: skip


def routes(stack: Stack) -> Iterator[tuple[str, Route]]:
    """Every page there is, with its path."""
    settings = Settings(_env_file=None, mo_data_dir=stack.data_dir)  # type: ignore[call-arg]
    database = Database(database_url(settings), 1)
    channel = grpc.insecure_channel(stack.grpc_address)
    admin: list[BaseRoute] = make_admin(settings, database, channel).routes  # type: ignore[arg-type] # only to make stubs
    for base, found in (("/grappelli", admin), ("", [*reference.routes(settings), *honeypot.routes(settings, database)])):
        yield from ((base + each.path, each) for each in found if isinstance(each, Route))
    channel.close()


def fields() -> list[str]:
    """The names of every form's fields."""
    templates = Path(mo_grpc.web.admin.__file__).parent / "templates"
    found = {name for file in templates.iterdir() for name in re.findall(r'name="(\w+)"', file.read_text())}
    return sorted(found - {"csrf", "viewport", "robots"})


def paths(stack: Stack, method: str, hostile: str) -> list[str]:
    """The paths that take a method, with a hostile value where they name something."""
    return [
        re.sub(r"\{[^}]*\}", hostile or "x", path)
        for path, route in routes(stack)
        if (route.methods is None or method in route.methods) and "logout" not in path
    ]


@pytest.fixture
def visitor(stack: Stack, logged_in: LoggedIn) -> Iterator[httpx.Client]:  # noqa: F811 - the fixture
    """An administrator, beside Envoy, which refuses some of it by itself; the token is a header, for the tests."""
    browser = logged_in(Role.ADMINISTRATOR)
    token = browser.page.locator("input[name=csrf]").first.get_attribute("value") or ""
    with inside(stack, "198.51.100.250") as client:
        client.cookies.set("mo_admin", browser.cookie()["value"])
        client.cookies.set("csrftoken", "a" * 32)
        client.headers["x-test-token"] = token
        yield client


_addresses = itertools.count()


def another() -> dict[str, str]:
    """An address that has not tried yet: the honeypot lets those wait who have."""
    number = next(_addresses)
    return {"x-forwarded-for": f"10.9.{number // 256}.{number % 256}"}


def test_addresses_and_queries(stack: Stack, visitor: httpx.Client) -> None:
    asked: set[str] = set()
    for value in HOSTILE:
        for path in paths(stack, "GET", value):
            queries = ["", "&".join(f"{name}={value}" for name in QUERIES)]
            listed = re.fullmatch(r"/grappelli/([\w-]+|imports/[^/]*)(\.csv)?", path)
            queries += [f"{name}={value}&stream=logins" for name in QUERIES] if listed and value in HOSTILE[:6:2] else []
            addresses = {f"{path}?{query}" if query else path: query for query in queries}
            for address, query in addresses.items():
                if address in asked:  # a path that names nothing is the same for every value
                    continue
                asked.add(address)
                with visitor.stream("GET", address) as answer:
                    assert answer.status_code < 500, f"{path[:80]}?{query[:80]}"
                    # Of a table with all that other tests have made, the names of its columns and some rows will do.
                    # A stream of events does not end.
                    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                        list(itertools.islice(answer.iter_lines(), 3) if path.endswith(".csv") else answer.iter_bytes())


def test_forms(stack: Stack, visitor: httpx.Client) -> None:
    token = visitor.headers["x-test-token"]
    kind = {"content-type": "application/x-www-form-urlencoded"}
    for value in HOSTILE:
        for path in paths(stack, "POST", value if value.isalnum() else "x"):
            each = [f"{name}={value}" for name in fields()]
            bodies = ["&".join(each), *(each if value in HOSTILE[:5:4] and "/grappelli/" in path else [])]
            for body in bodies:
                answer = visitor.post(path, content=f"csrf={token}&{body}", headers=kind | another())
                assert answer.status_code < 500, f"{path[:80]} {body[:80]}"


def test_forms_in_an_encoding_that_no_browser_uses(stack: Stack, visitor: httpx.Client) -> None:
    token = visitor.headers["x-test-token"]
    part = '--x\r\ncontent-disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    body = "".join(part.format(name, value) for name, value in [("csrf", token), *((name, "+2AA-") for name in fields())])
    for charset in MULTIPART:
        for path in paths(stack, "POST", "x"):
            kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
            answer = visitor.post(path, content=f"{body}--x--\r\n", headers=kind | another())
            assert answer.status_code < 500, f"{path} {charset}"
    many = "".join(part.format(f"field-{number}", "x") for number in range(300))
    for path in ("/grappelli/imports", "/grappelli/keys"):
        kind = {"content-type": "multipart/form-data; boundary=x"}
        assert visitor.post(path, content=f"{many}--x--\r\n", headers=kind).status_code == 400


def test_headers(stack: Stack, visitor: httpx.Client) -> None:
    pages = ["/grappelli/login", "/grappelli/customers", "/grappelli/imports", "/grappelli/nowhere", "/admin/", "/admin/login/"]
    pages += ["/redoc/", "/swagger/", "/openapi.json"]
    for name, values in HEADERS.items():
        for value, path, method in itertools.product(values, pages, ("GET", "POST")):
            sent = {key.encode(): item.encode() for key, item in another().items()} | {name.encode(): value}
            answer = visitor.request(method, path, content=b"a=b" if method == "POST" else None, headers=sent)
            assert answer.status_code < 500, f"{method} {path} {name}: {value[:80]!r}"
    for address in ("", "x", "1::", "9" * 5000):
        assert visitor.post("/admin/login/", headers={"x-forwarded-for": address}).status_code < 500


def test_the_next_visitor_has_an_answer(stack: Stack) -> None:
    """Through Envoy, whose connections to the pages are shared by all."""
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as visitor:
        token = visitor.get("/grappelli/login").text.partition('name="csrf" value="')[2].partition('"')[0]
        for origin in ("http://[", "null", stack.http_url):
            answer = visitor.post("/grappelli/login", data={"csrf": token, "email": "9" * 5000}, headers={"origin": origin})
            assert answer.status_code == (401 if origin == stack.http_url else 403)
            assert visitor.get("/grappelli/login").status_code == 200
