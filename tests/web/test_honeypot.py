"""The trap over HTTP: it lets nobody in, keeps no password, and cannot be used against the service."""

import itertools
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import TLS, Stack
from tests.databases import owner
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


def test_everything_below_it_asks_to_log_in(visitor: httpx.Client) -> None:
    for path in ("/admin/", "/admin/auth/user/1/change/", "/admin/jsi18n/"):
        answer = visitor.get(path)
        assert (answer.status_code, answer.headers["location"]) == (302, f"{LOGIN}?next={path}")
    assert visitor.get("/admin/auth").headers["location"].endswith("/admin/auth/")


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


def unkept(stack: Stack) -> int:
    """How many attempts were counted alone, since the start."""
    with inside(stack, "127.0.0.1") as client:
        return int(re.findall(r"^mo_honeypot_attempts_unstored_total (\d+)$", client.get("/metrics").text, re.MULTILINE)[0])


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
    started = time.monotonic()
    with ThreadPoolExecutor(30) as threads:
        list(threads.map(lambda number: try_to_log_in(visitor, f"203.0.113.{number // 3}", name), range(150)))
    seconds = time.monotonic() - started
    kept = len(attempts(stack, name))
    assert 20 <= kept <= 20 * (seconds + 2)
    assert kept + unkept(stack) - before == 150


def test_a_network_of_ipv6_is_one_address(visitor: httpx.Client) -> None:
    waits = [try_to_log_in(visitor, f"2001:db8:7:7::{number}", "v6") for number in range(4)]
    assert waits[3] >= 1
