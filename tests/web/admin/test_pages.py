"""Every page, for everybody: in light and dark, on a phone, by keyboard, and for screen readers."""

import re
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import rows
from tests.conftest import Stack
from tests.databases import owner
from tests.doors import GrpcDoor
from tests.factories import a_customer, a_loan, pay
from tests.waiting import eventually
from tests.web.admin.conftest import Visitor, press
from tests.web.test_alone import the_pages

LoggedIn = Callable[..., Visitor]


@pytest.fixture
def paths(over_grpc: GrpcDoor) -> list[str]:
    """A page of each kind, with something on it."""
    customer = a_customer(over_grpc)
    loan, _ = (a_loan(over_grpc, customer, "100.00") for _ in range(2))
    pending = a_loan(over_grpc, customer, "50.00", activate=False)
    payment = pay(over_grpc, customer, "120.00")["external_id"]
    pay(over_grpc, customer, "5000.00")
    lists = ["", "customers", "loans", "payments", "imports", "keys", "users", "audit-log", "honeypot"]
    return [
        *lists, "keys/new", "users/new", "users/1", "nowhere", f"customers/{customer}", f"loans/{loan}", f"loans/{pending}",
        f"loans/{pending}/activate", f"payments/{payment}", f"payments/{payment}/reject", "users/1/reset",
        f"customers/{customer}/statement",
    ]  # fmt: skip


def serious(page: Page, path: str) -> list[str]:
    """What axe finds that is serious or worse, and where; what can be told from colours in dark, too."""
    found = []
    for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        violations = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
        grave = [each for each in violations if each["impact"] in ("serious", "critical")]
        found += [f"{path} in {scheme}: {each['id']}, {each['nodes'][0]['target']}" for each in grave]
    return found


def test_axe_finds_no_serious_fault(logged_in: LoggedIn, paths: list[str]) -> None:
    visitor = logged_in(Role.ADMINISTRATOR)
    found = [fault for path in paths for fault in serious(visitor.open(path), path)]
    visitor.context.clear_cookies()
    found += [fault for path in ("login", "password") for fault in serious(visitor.open(path), path)]
    assert found == []


def test_nothing_is_wider_than_a_phone(logged_in: LoggedIn, paths: list[str]) -> None:
    visitor = logged_in(Role.ADMINISTRATOR, viewport={"width": 375, "height": 700})
    for path in paths:
        page = visitor.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
    page.get_by_role("button", name="Menu").click()
    press(page.get_by_role("link", name="Loans", exact=True))
    assert visitor.heading() == "Loans"


@pytest.mark.parametrize(("width", "least"), [(375, 44), (1280, 24)])
def test_what_is_touched_is_large_enough(logged_in: LoggedIn, paths: list[str], width: int, least: int) -> None:
    """As high as WCAG asks for fingers (2.5.5), and for pointers (2.5.8); links within a sentence are as high as its line."""
    visitor = logged_in(Role.ADMINISTRATOR, viewport={"width": width, "height": 700})
    script = """least => [...document.querySelectorAll("a, button, summary, select, input")]
        .filter(each => each.checkVisibility() && !each.closest("p:not(.hint)") && !each.matches("[type=checkbox], .skip"))
        .filter(each => each.getBoundingClientRect().height < least - 0.5)
        .map(each => `${each.outerHTML.slice(0, 90)}: ${each.getBoundingClientRect().height}`)"""
    found = {path: visitor.open(path).evaluate(script, least) for path in paths}
    assert {path: small for path, small in found.items() if small} == {}


def test_numbers_stay_on_one_line(logged_in: LoggedIn, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc, "9999999999.99")
    a_loan(over_grpc, customer, "9999999999.99")
    payment = pay(over_grpc, customer, "99999999999999999.99")["external_id"]
    visitor = logged_in(Role.VIEWER, viewport={"width": 375, "height": 700})
    for path in ("", f"customers/{customer}", f"customers/{customer}/statement", f"payments/{payment}"):
        page = visitor.open(path)
        lines = "[...document.querySelectorAll('.tile .value')].map(each => each.getClientRects().length * each.offsetHeight)"
        heights = page.evaluate(lines)
        assert len(set(heights)) == 1, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
        for tile in page.locator(".tile").all():
            assert tile.evaluate("each => each.scrollWidth <= each.clientWidth"), path


def test_a_time_line_of_one_day_says_each_moment_once(logged_in: LoggedIn, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    a_loan(over_grpc, customer, "10.00")
    chart = logged_in(Role.VIEWER).open(f"customers/{customer}").get_by_role("img", name="Time line").first
    ticks = [text for text in chart.locator("text").all_text_contents() if ":" in text]
    assert len(ticks) == len(set(ticks)) == 6


def test_the_keyboard_is_enough(logged_in: LoggedIn) -> None:
    page = logged_in(Role.VIEWER).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Enter")
    page.get_by_role("region", name="Figures by status").wait_for()


def test_pages_work_without_scripts(logged_in: LoggedIn, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    visitor = logged_in(Role.OPERATOR, java_script_enabled=False, viewport={"width": 375, "height": 700})
    page = visitor.page
    press(page.get_by_role("link", name="Customers", exact=True))
    page.get_by_label("Id begins with").fill(customer)
    press(page.get_by_role("button", name="Show"))
    press(page.get_by_role("link", name=customer, exact=True))
    page.get_by_role("textbox", name="Credit line").fill("123.45")
    press(page.get_by_role("button", name="Save"))
    assert "123.45" in page.locator(".tiles").inner_text()


def test_the_figures_are_of_one_moment(stack: Stack, logged_in: LoggedIn, over_grpc: GrpcDoor, tmp_path: Path) -> None:
    """A loan that begins while they are read is in none of them."""
    visitor = logged_in(Role.VIEWER)
    customer = a_customer(over_grpc, "900000000.00")
    with the_pages(stack, tmp_path) as pages, ThreadPoolExecutor() as threads, owner(stack.data_dir) as other:
        pages.cookies.set("mo_admin", visitor.cookie()["value"])
        other.execute("BEGIN; LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        dashboard = threads.submit(pages.get, "/grappelli/")
        # It has read the loans, and waits for the payments.
        waiting = "SELECT FROM pg_locks WHERE relation = 'payments'::regclass AND NOT granted AND mode = 'AccessShareLock'"
        eventually(
            lambda: bool(rows(stack, f"{waiting} AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'loans'::regclass)")), 20
        )
        a_loan(over_grpc, customer, "900000000.00")
        other.execute("COMMIT")
        assert customer not in dashboard.result(30).text
        assert customer in pages.get(f"/grappelli/customers/{customer}").text


def test_the_dashboard_tells_in_words_what_its_charts_show(logged_in: LoggedIn, over_grpc: GrpcDoor) -> None:
    a_loan(over_grpc, a_customer(over_grpc), "100.00")
    page = logged_in(Role.VIEWER).page
    for chart in ("Outstanding by status", "Outstanding over time", "Payments per day", "Use of credit lines"):
        assert page.get_by_role("img", name=chart).first.locator("desc").text_content()
    page.get_by_text("Figures by status").click()
    assert page.get_by_role("region", name="Figures by status").locator("tbody tr").count() == 4


def test_outstanding_over_time_is_what_the_events_say(
    stack: Stack, logged_in: LoggedIn, over_grpc: GrpcDoor, tmp_path: Path
) -> None:
    visitor = logged_in(Role.VIEWER)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    stack.cli("demo", "--customers", "6", "--seed", "7301", "--until", today.date().isoformat())
    with the_pages(stack, tmp_path) as pages:
        pages.cookies.set("mo_admin", visitor.cookie()["value"])
        dashboard = pages.get("/grappelli/").text
    [table] = re.findall(r'<div [^>]*aria-label="Outstanding over time">.*?</table>', dashboard, re.DOTALL)
    amounts = [Decimal(amount.replace(",", "")) for amount in re.findall(r'<td class="n">([^<]+)</td>', table)]
    changes: dict[int, Decimal] = defaultdict(Decimal)
    signs = {"LOAN_ACTIVATED": 1, "PAYMENT_COMPLETED": -1, "PAYMENT_BOUNCED": 1}
    span = {"start_time": (today - timedelta(days=60)).isoformat(), "end_time": today.isoformat()}
    token = ""
    while True:
        page = over_grpc("journal.ListEvents", kinds=[*signs], page_size=1000, page_token=token, **span)
        for event in page["events"]:
            days_ago = (today - datetime.fromisoformat(event["recorded_at"])).days + 1
            changes[days_ago] += signs[event["kind"]] * Decimal(event["amount"])
        if not (token := page["next_page_token"]):
            break
    # From yesterday backwards: what one day has more than the day before.
    by_day = [after - before for after, before in pairwise(amounts[1:])]
    assert by_day == [changes[days_ago] for days_ago in range(1, 59)]
    assert max(changes.values()) > 0 > min(changes.values())
