"""A browser before the admin's pages, and people who log in there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import NewUser, User
from tests.conftest import Stack
from tests.secrets import PASSWORD


@pytest.fixture(scope="session")
def admin_url(stack: Stack) -> str:
    return f"{stack.http_url}/grappelli/"


def press(what: Locator) -> None:
    """Click what leads to another page, and wait for that; a click alone returns before a slow page is there."""
    with what.page.expect_navigation():
        what.click()


@dataclass
class Visitor:
    """Somebody with a browser window, which notes what it should not see."""

    url: str
    context: BrowserContext
    page: Page
    faults: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def log_in(self, email: str, password: str = PASSWORD) -> Page:
        self.open("login")
        self.page.get_by_label("E-mail").fill(email)
        self.page.get_by_label("Password").fill(password)
        press(self.page.get_by_role("button", name="Log in"))
        return self.page

    def heading(self) -> str:
        return self.page.locator("h1").inner_text()

    def cookie(self) -> dict[str, Any]:
        [cookie] = [dict(each) for each in self.context.cookies() if each.get("name") == "mo_admin"]
        return cookie


NewVisitor = Callable[..., Visitor]


@pytest.fixture
def new_visitor(admin_url: str, browser: Browser, tmp_path: Path) -> Iterator[NewVisitor]:
    """Opens browser windows; at the end, none has had an error in its console or asked another host for anything."""
    visitors: list[Visitor] = []

    def make(**options: Any) -> Visitor:
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        page = context.new_page()
        visitor = Visitor(admin_url, context, page)
        host = urlsplit(admin_url).netloc
        # Answers of 4xx are said in the console as well; those a test expects.
        page.on(
            "console", lambda m: visitor.faults.append(m.text) if m.type == "error" and "status of 4" not in m.text else None
        )
        page.on("pageerror", lambda error: visitor.faults.append(str(error)))
        page.on("request", lambda r: visitor.faults.append(r.url) if urlsplit(r.url).netloc not in (host, "") else None)
        visitors.append(visitor)
        return visitor

    yield make
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.faults for visitor in visitors if visitor.faults] == []


@pytest.fixture
def visitor(new_visitor: NewVisitor) -> Visitor:
    return new_visitor()


@pytest.fixture
def logged_in(new_visitor: NewVisitor, new_user: NewUser) -> Callable[..., Visitor]:
    """Opens a window for somebody of a role who has logged in."""

    def make(role: Role = Role.ADMINISTRATOR, **options: Any) -> Visitor:
        user: User = new_user(role)
        visitor = new_visitor(**options)
        # Without the pages, which other tests walk through.
        asked = visitor.context.request.get(f"{visitor.url}login").text()
        form: dict[str, str | float | bool] = {
            "csrf": asked.partition('name="csrf" value="')[2].partition('"')[0],
            "email": user.email,
            "password": PASSWORD,
        }
        visitor.context.request.post(f"{visitor.url}login", form=form, max_redirects=0)
        visitor.open("")
        assert visitor.heading() == "Dashboard"
        return visitor

    return make
