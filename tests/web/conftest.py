"""A real browser: Debian's Chromium, headless."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.auth.users.conftest import new_user, no_login_failures  # noqa: F401 - fixtures
from tests.conftest import Stack

# On a busy machine, a page of the reference takes more than the usual five seconds.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # Root's Chromium needs no sandbox: it opens our own pages alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what it did that no page of ours does."""

    page: Page
    faults: list[str] = field(default_factory=list)


@pytest.fixture
def watched(browser: Browser, stack: Stack) -> Iterator[Watched]:
    """A page of a new visitor. In the end, there was no error on the console, and nobody else was asked for anything."""
    context = browser.new_context(base_url=stack.http_url)
    found = Watched(context.new_page())

    def ask(url: str) -> None:
        if not url.startswith((stack.http_url, "data:", "blob:")):
            found.faults.append(url)

    def hear(message: ConsoleMessage) -> None:
        # A Django admin has no icon either.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            found.faults.append(message.text)

    found.page.on("console", hear)
    found.page.on("pageerror", lambda error: found.faults.append(str(error)))
    found.page.on("request", lambda request: ask(request.url))
    yield found
    context.close()
    assert found.faults == []


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page
