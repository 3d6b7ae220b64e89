"""The honeypot over HTTP: it lets nobody in, keeps no password, and cannot be used against the service."""

import itertools
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import TLS, Stack
from tests.databases import owner
from tests.telemetry.scraping import scrape
from tests.waiting import eventually

LOGIN = "/admin/login/"


_count = itertools.count(1)


@pytest.fixture
def visitor(stack: Stack) -> Iterator[httpx.Client]:
    """Somebody with an address of their own, as Envoy tells it, who has not tried yet."""
    with inside(stack, f"198.51.100.{next(_count)}") as client:
        yield client


def inside(stack: Stack, address: str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(stack.data_dir / "run" / "web.sock"))
    return httpx.Client(
        transport=transport, base_url="http://web", headers={"x-forwarded-for": address}, timeout=60, verify=TLS
    )


def attempts(stack: Stack, username: str) -> list[tuple[Any, ...]]:
    with owner(stack.data_dir) as connection:
        statement = "SELECT address, user_agent, path, username FROM honeypot_attempts WHERE username LIKE %s"
        return connection.execute(statement, [f"{username}%"]).fetchall()


def log_in(visitor: httpx.Client, username: str, password: str = "guess") -> httpx.Response:  # noqa: S107 - no secret
    token = visitor.get(LOGIN).text.partition('name="csrfmiddlewaretoken" value="')[2][:64]
    form = {"username": username, "password": password, "csrfmiddlewaretoken": token}
    return visitor.post(LOGIN, data=form, headers={"user-agent": "prowler/1.0"})


# What Django 5.2 sends, from the first to the last; Envoy adds its own behind them.
SECURITY = ["x-content-type-options", "referrer-policy", "cross-origin-opener-policy"]
NEVER_CACHED = ["expires", "cache-control"]
PAGE = ["content-type", *NEVER_CACHED, "vary", "x-frame-options", "content-length", *SECURITY, "set-cookie"]
FORBIDDEN = ["content-type", "x-frame-options", "content-length", *SECURITY]
REDIRECT = ["content-type", "location", *NEVER_CACHED, "x-frame-options", "content-length", "vary", *SECURITY]
CACHEABLE = [name for name in REDIRECT if name not in NEVER_CACHED]
OPTIONS = ["content-type", "allow", "content-length", *NEVER_CACHED, "x-frame-options", "vary", *SECURITY]
MOVED = ["content-type", "location", *SECURITY]
ENVOYS = {"date", "x-request-id", "transfer-encoding"}


@pytest.fixture
def outside(stack: Stack) -> Iterator[httpx.Client]:
    """Through Envoy."""
    with httpx.Client(base_url=stack.http_url, timeout=60, verify=TLS) as client:
        yield client


def headers(answer: httpx.Response) -> list[str]:
    return [name for name in answer.headers if name not in ENVOYS]


def test_everything_below_it_asks_to_log_in_as_django_does(outside: httpx.Client) -> None:
    for path in (
        "/admin/",
        "/admin/auth/user/1/change/",
        "/admin/nosuch",
        "/admin/login",
        "/admin/jsi18n/",
        "/admin/a b/?q=ä b&c",
    ):
        answer = outside.get(path)
        wanted = quote(quote(path.partition("?")[0]) + ("?q=%C3%A4%20b&c" if "?" in path else ""))
        assert (answer.status_code, answer.headers["location"]) == (302, f"{LOGIN}?next={wanted}")
        assert headers(answer) == (CACHEABLE if "jsi18n" in path else REDIRECT), path
    answer = outside.get("/admin?a=1")
    assert (answer.status_code, answer.headers["location"], headers(answer)) == (301, "/admin/?a=1", MOVED)
    answer = outside.get("/admin/logout/")
    assert (answer.status_code, answer.headers["location"], headers(answer)) == (302, "/admin/", REDIRECT)


def test_the_headers_of_its_form_are_djangos(outside: httpx.Client) -> None:
    for method in ("GET", "HEAD"):
        answer = outside.request(method, LOGIN)
        assert (answer.status_code, headers(answer)) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "max-age=0, no-cache, no-store, must-revalidate, private"
    assert answer.headers["vary"] == "Cookie"
    assert [answer.headers[name] for name in SECURITY] == ["nosniff", "same-origin", "same-origin"]
    answer = outside.options(LOGIN)
    assert (answer.status_code, answer.headers["allow"], headers(answer)) == (200, "GET, POST, PUT, HEAD, OPTIONS", OPTIONS)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in (LOGIN, "/admin/", "/admin/logout/"):
            answer = outside.request(method, path)
            assert (answer.status_code, headers(answer)) == (403, FORBIDDEN), (method, path)


def test_its_cookie_is_djangos(outside: httpx.Client) -> None:
    cookie = outside.get(LOGIN).headers["set-cookie"]
    pattern = (
        r"csrftoken=[A-Za-z0-9]{32}; expires=(\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT); Max-Age=31449600; Path=/; SameSite=Lax"
    )
    found = re.fullmatch(pattern, cookie)
    assert found, cookie
    assert abs(parsedate_to_datetime(found[1]).timestamp() - time.time() - 31_449_600) < 60
    # It stays, and one that is none is replaced.
    assert outside.get(LOGIN).headers["set-cookie"][:42] == cookie[:42]
    for other in ("short", "-" * 32, "é" * 32):
        sent = {b"cookie": f"csrftoken={other}".encode()}
        assert re.fullmatch(pattern, httpx.get(f"{outside.base_url}{LOGIN}", headers=sent, verify=TLS).headers["set-cookie"])


def test_its_tokens_are_djangos(visitor: httpx.Client) -> None:
    """A token hides the cookie's secret in other letters each time; that secret itself is taken, too, and nothing else."""
    tokens = {re.findall(r'name="csrfmiddlewaretoken" value="([A-Za-z0-9]{64})"', visitor.get(LOGIN).text)[0] for _ in range(3)}
    assert len(tokens) == 3
    token, secret = tokens.pop(), visitor.cookies["csrftoken"]
    wrong = "a" * 64 if secret != "a" * 32 else "b" * 64

    def status(token: str, address: str, **headers: str) -> int:
        form = {"username": "x", "password": "y", "csrfmiddlewaretoken": token}
        return visitor.post(LOGIN, data=form, headers={"x-forwarded-for": address, **headers}).status_code

    assert [status(each, "10.8.0.1") for each in (token, secret)] == [200, 200]
    assert [status(each, "10.8.0.2") for each in (wrong, token[:-1], "")] == [403, 403, 403]
    assert status(token, "10.8.0.3", origin="https://evil.example") == 403
    assert status(token, "10.8.0.3", origin="http://web") == 200
    assert status("", "10.8.0.3", **{"x-csrftoken": token}) == 200


def test_its_form_says_what_is_wrong_as_django_does(visitor: httpx.Client) -> None:
    text = log_in(visitor, "", "").text
    assert "<title>Error: Log in | Django site admin</title>" in text
    assert "Please correct the errors below." in text
    assert text.count('<ul class="errorlist"') == text.count("This field is required.") == 2
    assert "Please correct the error below." in log_in(visitor, "x" * 151, "y").text
    answer = visitor.get(LOGIN, params={"next": "/admin/auth/?a=1&b"})
    assert f'action="{LOGIN}?next=%2Fadmin%2Fauth%2F%3Fa%3D1%26b"' in answer.text
    assert 'name="next" value="/admin/auth/?a=1&amp;b"' in answer.text
    assert 'name="next" value=""' in visitor.get(LOGIN, params={"next": "https://evil.example/"}).text
    assert 'name="next" value="/admin/"' in visitor.get(LOGIN).text


def test_its_files_are_where_djangos_are(outside: httpx.Client) -> None:
    page = outside.get(LOGIN).text
    found = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))
    names = {"css/base.css", "css/dark_mode.css", "css/login.css", "css/nav_sidebar.css", "css/responsive.css"}
    assert found == {f"/static/admin/{name}" for name in names | {"js/theme.js", "js/nav_sidebar.js"}}
    for path in found:
        answer = outside.get(path)
        assert (answer.status_code, "content-security-policy" in answer.headers) == (200, False)
        assert {"etag", "last-modified", "accept-ranges"} <= set(answer.headers)
    for path in ("nosuch.css", "..%2f..%2fdjango.py", "%00", "a" * 5000, ""):
        assert outside.get(f"/static/admin/{path}").status_code in (400, 404)


def test_a_forged_host_changes_nothing(visitor: httpx.Client, stack: Stack) -> None:
    name = f"host-{uuid.uuid4().hex}"
    for host in ("[::1", "a//elsewhere.example/"):
        forged = {"host": host}
        assert visitor.get("/admin", headers=forged).headers["location"] == "/admin/"
        assert visitor.get("/admin/", headers=forged).headers["location"] == f"{LOGIN}?next=/admin/"
        visitor.post(LOGIN, data={"username": name, "password": "x"}, headers=forged)
    assert {path for _, _, path, _ in attempts(stack, name)} == {LOGIN}


def test_an_attempt_is_remembered_but_for_its_password(visitor: httpx.Client, stack: Stack) -> None:
    name = f"root-{uuid.uuid4().hex}"
    answer = log_in(visitor, name, "hunter2-hunter2-hunter2")
    assert answer.status_code == 200
    assert "Please enter the correct username and password for a staff account." in answer.text
    assert attempts(stack, name) == [(visitor.headers["x-forwarded-for"], "prowler/1.0", LOGIN, name)]
    with owner(stack.data_dir) as connection:
        row = connection.execute("SELECT count(*) FROM honeypot_attempts AS a WHERE a::text LIKE '%hunter2%'").fetchone()
    assert row == (0,)


def test_nobody_is_let_in_whatever_they_send(visitor: httpx.Client, stack: Stack) -> None:
    name = f"odd-{uuid.uuid4().hex}"
    for form in (b"", b"\xff\xfe", b"username=" + name.encode() + b"x" * 5000, b"a=" + b"x" * 200_000):
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert visitor.post(LOGIN, content=form, headers=headers).status_code in (200, 403)
    [(*_, kept)] = attempts(stack, name)
    assert len(kept) == 150
    markup = '"><script>alert(1)</script>'
    assert "<script>" not in log_in(visitor, markup).text
    assert "<script>" not in visitor.get(LOGIN, params={"next": markup}).text


def test_without_its_cookie_it_answers_as_django_does(visitor: httpx.Client) -> None:
    answer = visitor.post(LOGIN, data={"username": "x", "password": "y"})
    assert answer.status_code == 403
    assert "CSRF verification failed. Request aborted." in answer.text
    assert "allow cookies" in answer.text
    visitor.get(LOGIN)
    answer = visitor.post(LOGIN, data={"username": "x", "password": "y"})
    assert (answer.status_code, "allow cookies" in answer.text) == (403, False)


def unkept(stack: Stack) -> int:
    """How many attempts were counted alone, since the start."""
    return int(scrape(stack)("mo_honeypot_attempts_total", stored="no"))


def try_to_log_in(client: httpx.Client, address: str, name: str) -> float:
    """Answers how long it took."""
    started = time.monotonic()
    answer = client.post(LOGIN, data={"username": name, "password": "x"}, headers={"x-forwarded-for": address})
    assert answer.status_code == 403
    return time.monotonic() - started


def test_repeaters_wait_and_hold_nobody_else_up(stack: Stack, visitor: httpx.Client) -> None:
    """From an address of its own, so that no other test waits for this one."""
    name = f"flood-{uuid.uuid4().hex}"
    before = unkept(stack)
    with ThreadPoolExecutor(30) as threads:
        waits = [try_to_log_in(visitor, "203.0.113.77", name) for _ in range(5)]
        assert waits[3] >= 1
        assert waits[4] >= 2
        flood = [threads.submit(try_to_log_in, visitor, "203.0.113.77", name) for _ in range(30)]
        eventually(lambda: unkept(stack) == before + 15, 7)
        with httpx.Client(base_url=stack.http_url, verify=TLS) as other:
            assert other.get(LOGIN).status_code == 200
        assert not any(attempt.done() for attempt in flood)
    assert len(attempts(stack, name)) == 20


def test_many_addresses_do_not_fill_the_disk(stack: Stack, visitor: httpx.Client) -> None:
    name = f"many-{uuid.uuid4().hex}"
    before = unkept(stack)
    started, tried = time.monotonic(), 0
    with ThreadPoolExecutor(30) as threads:
        # For more than a whole second: of the first one, another test may have used a part.
        while time.monotonic() - started < 2:
            addresses = [f"198.18.{number // 250}.{number % 250}" for number in range(tried, tried + 150)]
            list(threads.map(lambda address: try_to_log_in(visitor, address, name), addresses))
            tried += len(addresses)
    seconds = time.monotonic() - started
    kept = len(attempts(stack, name))
    assert 20 <= kept <= 20 * (seconds + 2)
    assert kept + unkept(stack) - before == tried


def test_a_network_of_ipv6_is_one_address(visitor: httpx.Client) -> None:
    waits = [try_to_log_in(visitor, f"2001:db8:7:7::{number}", "v6") for number in range(4)]
    assert waits[3] >= 1
