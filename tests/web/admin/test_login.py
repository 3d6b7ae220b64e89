"""Who gets in, and for how long."""

import contextlib
import json
import socket
import socketserver
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pyotp
import pytest

from mo_grpc.auth.users.rules import Role
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from tests.auth.users.conftest import Doors, NewUser, rows, totp
from tests.conftest import Stack, free_port
from tests.doors import GrpcDoor
from tests.factories import a_customer, a_loan, outstanding
from tests.secrets import PASSWORD
from tests.waiting import eventually
from tests.web.admin.conftest import NewVisitor, Visitor, press
from tests.web.test_alone import the_pages

LoggedIn = Callable[..., Visitor]


@pytest.fixture
def doors(grpc_channel: grpc.Channel) -> Doors:
    return Doors(lambda headers: GrpcDoor(grpc_channel, tuple(headers.items())))


def test_a_user_logs_in_and_out(visitor: Visitor, new_user: NewUser) -> None:
    page = visitor.log_in(new_user(Role.VIEWER, first_name="Ada").email)
    assert visitor.heading() == "Dashboard"
    assert "Ada" in page.locator(".who").inner_text()
    cookie = visitor.cookie()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"], cookie["expires"]) == (True, "Strict", "/grappelli/", -1)
    press(page.get_by_role("button", name="Log out"))
    assert visitor.heading() == "Log in"
    # The cookie of before opens nothing: the login has ended, not only its cookie.
    visitor.context.add_cookies([{key: cookie[key] for key in ("name", "value", "domain", "path")}])  # type: ignore[list-item]
    visitor.open("customers")
    assert visitor.heading() == "Log in"
    assert "Your login has ended" in page.content()


def test_a_wrong_password_is_refused(visitor: Visitor, new_user: NewUser) -> None:
    page = visitor.log_in(new_user().email, "wrong horse 1234")
    assert "The e-mail or the password is not right." in page.get_by_role("alert").inner_text()
    visitor.open("customers")
    assert visitor.heading() == "Log in"


def test_too_many_failures_have_to_wait(visitor: Visitor, new_user: NewUser) -> None:
    email = new_user().email
    page = visitor.open("login")
    token = page.locator("input[name=csrf]").get_attribute("value") or ""
    wrong: dict[str, str | float | bool] = {"csrf": token, "email": email, "password": "wrong horse 1234"}
    for _ in range(6):
        visitor.context.request.post(f"{visitor.url}login", form=wrong)
    assert "please wait" in visitor.log_in(email).get_by_role("alert").inner_text()


def test_one_time_codes_are_asked_for(visitor: Visitor, new_user: NewUser, doors: Doors) -> None:
    email = new_user(Role.OPERATOR).email
    door = doors.user(email)
    secret = door("auth.EnrollOtp", password=PASSWORD)["secret"]
    door("auth.ConfirmOtp", code=totp(secret, -1))
    page = visitor.log_in(email)
    assert visitor.heading() == "One-time code"
    page.get_by_label("Code").fill("000000" if totp(secret) != "000000" else "111111")
    press(page.get_by_role("button", name="Log in"))
    assert "not right" in page.get_by_role("alert").inner_text()
    page.get_by_label("Code").fill("12 34")
    press(page.get_by_role("button", name="Log in"))
    assert "The code must be six digits" in page.get_by_role("alert").inner_text()
    code = pyotp.TOTP(secret).at(time.time())
    page.get_by_label("Code").fill(f"{code[:3]} {code[3:]}")
    press(page.get_by_role("button", name="Log in"))
    assert visitor.heading() == "Dashboard"


def test_a_password_that_must_be_changed(visitor: Visitor, new_user: NewUser) -> None:
    email = new_user(must_change_password=True).email
    page = visitor.log_in(email)
    assert visitor.heading() == "New password"

    def change(new: str, again: str) -> None:
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_label("New password", exact=True).fill(new)
        page.get_by_label("Repeat the new password").fill(again)
        press(page.get_by_role("button", name="Change"))

    change("another harbour 43", "another harbour 44")
    assert "not the same" in page.get_by_role("alert").inner_text()
    change("passwordpassword", "passwordpassword")
    assert "tried first" in page.get_by_role("alert").inner_text()
    change("another harbour 43", "another harbour 43")
    assert visitor.heading() == "Dashboard"


def test_only_staff_get_in(visitor: Visitor, new_user: NewUser) -> None:
    page = visitor.log_in(new_user(Role.ADMINISTRATOR, staff=False).email)
    assert "may not use the web admin" in page.get_by_role("alert").inner_text()
    visitor.open("customers")
    assert visitor.heading() == "Log in"


def test_a_login_leads_to_the_page_that_was_wanted_and_never_elsewhere(new_visitor: NewVisitor, new_user: NewUser) -> None:
    email = new_user().email
    for wanted, reached in (("loans?status=2", "loans?status=2"), ("//evil.example/", ""), ("https://evil.example/", "")):
        visitor = new_visitor()
        page = visitor.open(f"login?next={wanted.replace('?', '%3F')}")
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Password").fill(PASSWORD)
        press(page.get_by_role("button", name="Log in"))
        page.wait_for_url(visitor.url + reached)


def test_locking_an_account_is_felt_at_the_next_click(
    logged_in: LoggedIn, new_visitor: NewVisitor, new_user: NewUser, doors: Doors
) -> None:
    administrator, user = logged_in(), new_user(Role.ADMINISTRATOR)
    key = doors.user(user.email)("auth.CreateApiKey", api_key={"name": "of theirs", "scopes": ["loans:read"]})
    visitor = new_visitor()
    visitor.log_in(user.email)
    assert visitor.heading() == "Dashboard"
    page = administrator.open(f"users/{user.id}")
    assert "of theirs" in page.get_by_role("listitem").filter(has_text=key["id"]).inner_text()
    page.get_by_label("Also revoke the API keys below").check()
    press(page.get_by_role("button", name="Lock", exact=True))
    assert "locked" in page.locator(".head").inner_text()
    assert "of theirs" not in page.content()
    page = administrator.open(f"keys/{key['id']}")
    assert "revoked" in page.locator(".head").inner_text()
    press(page.get_by_role("link", name=f"user-{user.id}"))
    assert administrator.heading() == user.email
    visitor.open("customers")
    assert visitor.heading() == "Log in"


def test_a_session_ends_when_nothing_happens_or_the_login_is_over(stack: Stack, logged_in: LoggedIn) -> None:
    visitor = logged_in(Role.VIEWER)
    rows(stack, "UPDATE sessions SET expires_at = now() WHERE user_id = (SELECT max(id) FROM users)")
    visitor.open("loans")
    assert visitor.heading() == "Log in"


def test_forged_forms_are_refused(logged_in: LoggedIn, admin_url: str) -> None:
    visitor = logged_in(Role.ADMINISTRATOR)
    cookies = {"mo_admin": visitor.cookie()["value"]}
    with httpx.Client(base_url=admin_url, cookies=cookies) as client:
        token = visitor.page.locator("input[name=csrf]").first.get_attribute("value") or ""
        for data, headers in (
            ({}, {}),
            ({"csrf": "wrong"}, {}),
            ({"csrf": token}, {"origin": "https://evil.example"}),
        ):
            answer = client.post("keys", data={**data, "name": "forged", "scope": "loans:read"}, headers=headers)
            assert answer.status_code == 403, data
        upload = client.post("imports", data={"csrf": "wrong"}, files={"file": ("a.csv", b"a,1")})
        assert upload.status_code == 403
        assert client.post("login", data={"email": "a@b.example", "password": "x"}).status_code == 403
    visitor.open("keys")
    assert "forged" not in visitor.page.content()


def test_pages_tell_the_browser_to_load_nothing_from_elsewhere(admin_url: str) -> None:
    answer = httpx.get(f"{admin_url}login")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert httpx.get(f"{admin_url}nowhere").status_code == 404
    assert httpx.get(f"{admin_url}static/../app.py").status_code == 404
    assert "secure" not in answer.headers["set-cookie"].lower()  # here, it would not come back


def changed(stack: Stack, visitor: Visitor, **values: object) -> str:
    """The visitor's cookie as it will be some time from now."""
    vault = Vault(Settings(_env_file=None, mo_data_dir=stack.data_dir))  # type: ignore[call-arg]
    value = visitor.cookie()["value"]
    content = json.loads(vault.decrypt(urlsafe_b64decode(value + "=" * (-len(value) % 4)), "admin cookie"))
    sealed = vault.encrypt(json.dumps({**content, **values}).encode(), "admin cookie")
    return urlsafe_b64encode(sealed).decode().rstrip("=")


def test_who_is_silent_for_too_long_is_logged_out(stack: Stack, logged_in: LoggedIn, admin_url: str) -> None:
    visitor = logged_in(Role.VIEWER)
    now = int(time.time())
    for values, status in (({"seen": now - 29 * 60}, 200), ({"seen": now - 31 * 60}, 303), ({"expires": now - 1}, 303)):
        answer = httpx.get(f"{admin_url}loans", cookies={"mo_admin": changed(stack, visitor, **values)}, timeout=20)
        assert answer.status_code == status, values
    for nonsense in ("", "AAAA", visitor.cookie()["value"][:-9] + "AAAAAAAAA"):
        assert httpx.get(f"{admin_url}loans", cookies={"mo_admin": nonsense}, timeout=20).status_code == 303


def test_two_tabs_renew_a_token_at_the_same_moment(
    stack: Stack, logged_in: LoggedIn, admin_url: str, over_grpc: GrpcDoor
) -> None:
    visitor = logged_in(Role.OPERATOR)
    customer = a_customer(over_grpc)
    loans = [a_loan(over_grpc, customer, "1.00", activate=False) for _ in range(2)]
    token = visitor.page.locator("input[name=csrf]").first.get_attribute("value") or ""
    cookie = changed(stack, visitor, access_expires=0)

    def activate(loan: str) -> httpx.Response:
        return httpx.post(f"{admin_url}loans/{loan}/activate", data={"csrf": token}, cookies={"mo_admin": cookie}, timeout=20)

    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(activate, loans))
    assert [outstanding(over_grpc, loan)[1] for loan in loans] == ["ACTIVE", "ACTIVE"]
    # Each has the new pair, with which it goes on.
    for answer in answers:
        assert httpx.get(f"{admin_url}loans", cookies=dict(answer.cookies), timeout=20).status_code == 200


@contextmanager
def leading_to(port: int, address: str) -> Iterator[None]:
    """A port that leads to another one."""
    host, _, there = address.partition(":")

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(there))) as far, ThreadPoolExecutor(2) as threads:
                threads.submit(pass_on, self.request, far)
                threads.submit(pass_on, far, self.request)

    class Server(socketserver.ThreadingTCPServer):
        # The connections end when the pages do.
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_renewal_that_fails_is_tried_again(stack: Stack, logged_in: LoggedIn, over_grpc: GrpcDoor, tmp_path: Path) -> None:
    visitor = logged_in(Role.OPERATOR)
    loan = a_loan(over_grpc, a_customer(over_grpc), "1.00", activate=False)
    form = {"csrf": visitor.page.locator("input[name=csrf]").first.get_attribute("value") or ""}
    port = free_port()
    with the_pages(stack, tmp_path, MO_EDGE_UPSTREAM_HOST="127.0.0.1", MO_GRPC_PORT=str(port)) as pages:
        pages.cookies.set("mo_admin", changed(stack, visitor, access_expires=0))

        def activated() -> bool:
            assert pages.post(f"/grappelli/loans/{loan}/activate", data=form).status_code == 303
            return outstanding(over_grpc, loan)[1] == "ACTIVE"

        assert not activated()  # nobody listens there
        with leading_to(port, stack.grpc_address):
            eventually(activated, 20)


def test_a_login_that_ends_while_a_form_is_filled_in(stack: Stack, logged_in: LoggedIn, over_grpc: GrpcDoor) -> None:
    visitor = logged_in(Role.OPERATOR)
    loan = a_loan(over_grpc, a_customer(over_grpc), "1.00", activate=False)
    page = visitor.open(f"loans/{loan}/activate")
    rows(stack, "UPDATE sessions SET revoked_at = now() WHERE user_id = (SELECT max(id) FROM users)")
    press(page.get_by_role("button", name="Activate"))
    assert visitor.heading() == "Log in"
    assert outstanding(over_grpc, loan)[1] == "PENDING"


def test_over_tls_the_cookie_travels_over_tls_alone(stack: Stack, tmp_path: Path) -> None:
    with the_pages(stack, tmp_path, MO_TLS_CERTIFICATE="c.pem", MO_TLS_KEY="k.pem") as visitor:
        assert "secure" in visitor.get("/grappelli/login").headers["set-cookie"].lower()
