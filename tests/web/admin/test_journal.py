"""The journal in the pages: what happened to a customer, statements, and why a payment went where it went."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page

from mo_grpc.auth.users.rules import Role
from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor
from tests.factories import a_customer, a_loan, pay
from tests.web.admin.conftest import Visitor, press

LoggedIn = Callable[..., Visitor]


@pytest.fixture
def door(over_grpc: GrpcDoor) -> Door:
    return over_grpc


def rows(page: Page, region: str) -> list[list[str]]:
    """The cells of a table, row by row."""
    found = page.get_by_role("region", name=region, exact=True).locator("tbody tr").all()
    return [[cell.inner_text() for cell in row.locator("td").all()] for row in found]


def test_a_customers_page_tells_what_happened_the_newest_first(logged_in: LoggedIn, door: Door, stack: Stack) -> None:
    customer = a_customer(door, "1000.00")
    loan = a_loan(door, customer, "100.00")
    payments = [pay(door, customer, "1.00")["external_id"] for _ in range(20)]
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "900", "status": "INACTIVE"})
    visitor = logged_in(Role.ADMINISTRATOR)
    page = visitor.open(f"customers/{customer}")
    shown = rows(page, "Journal")
    key = stack.api_key.split("_")[1]
    assert shown[0][1:] == ["customer changed", "line 1,000.00 to 900.00 active to inactive", "", "80.00", key]
    assert [row[1:5] for row in shown[1:]] == [
        ["payment completed", payment, "1.00", f"{80 + place}.00"] for place, payment in enumerate(payments[:0:-1])
    ]
    press(page.get_by_role("link", name="Older"))
    assert [row[1:5] for row in rows(page, "Journal")] == [
        ["payment completed", payments[0], "1.00", "99.00"],
        ["loan activated", loan, "100.00", "100.00"],
        ["loan created", loan, "100.00", "100.00"],
        ["customer created", "line 1,000.00", "", "0.00"],
    ]
    press(page.get_by_role("link", name="Newest"))
    assert rows(page, "Journal") == shown


def test_a_statement_adds_up_on_its_page_and_in_its_file(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "500.00")
    payment = pay(door, customer, "500.00")["external_id"]
    visitor = logged_in(Role.VIEWER)
    page = visitor.open(f"customers/{customer}")
    press(page.get_by_role("link", name="Statement"))
    today = f"{datetime.now(UTC):%d %b %Y}"
    assert today in page.locator(".head p").inner_text()
    tiles = dict(
        zip(page.locator(".tile .label").all_inner_texts(), page.locator(".tile .value").all_inner_texts(), strict=True)
    )
    assert tiles == {
        "Debt before": "0.00",
        "Lent": "+500.00",
        "Rejected": "0.00",
        "Repaid": "-500.00",
        "Bounced": "0.00",
        "Debt after": "0.00",
    }
    assert [row[1:] for row in rows(page, "What happened")] == [
        ["before", "", "", "", "", "0.00"],
        ["customer created", "", "", "", "", "0.00"],
        ["loan created", loan, "", "500.00", "500.00", "500.00"],
        ["loan activated", loan, "", "500.00", "", "500.00"],
        ["payment completed", "", payment, "500.00", "-500.00", "0.00"],
        ["loan paid", loan, payment, "500.00", "", "0.00"],
        ["after", "", "", "", "", "0.00"],
    ]
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    file = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert download.value.suggested_filename.startswith(f"statement-{customer}-")
    assert [(row["what"], row["loan"], row["payment"], row["debt_change"], row["debt_after"]) for row in file[3:]] == [
        ("payment completed", "", payment, "-500.00", "0.00"),
        ("loan paid", loan, payment, "0.00", "0.00"),
    ]
    # Other days: everything is before or behind them.
    page.get_by_label("From").fill("2020-01-01")
    page.get_by_label("To, included").fill("2020-01-31")
    press(page.get_by_role("button", name="Show"))
    assert [row[1] for row in rows(page, "What happened")] == ["before", "after"]
    assert "01 Jan 2020 to 31 Jan 2020" in page.locator(".head p").inner_text()


@pytest.mark.parametrize("query", ["from=tomorrow", "to=2020-13-01", "from=2020-02-01&to=2020-01-01", "to=9999-12-31"])
def test_days_that_are_none_are_said(logged_in: LoggedIn, door: Door, query: str) -> None:
    page = logged_in(Role.VIEWER).open(f"customers/{a_customer(door)}/statement?{query}")
    assert "day" in page.get_by_role("alert").inner_text()
    assert len(rows(page, "What happened")) == 3


def test_on_paper_a_statement_is_without_what_leads_elsewhere(logged_in: LoggedIn, door: Door) -> None:
    page = logged_in(Role.VIEWER, color_scheme="dark").open(f"customers/{a_customer(door)}/statement")
    page.emulate_media(media="print")
    for gone in (page.get_by_role("navigation"), page.get_by_role("button", name="Show"), page.get_by_text("Export CSV")):
        assert not gone.first.is_visible()
    assert page.get_by_role("heading", name="Statement of").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_payments_page_says_why(logged_in: LoggedIn, door: Door, stack: Stack) -> None:
    customer = a_customer(door)
    loans = [a_loan(door, customer, amount) for amount in ("100.00", "300.00", "50.00")]
    payment = pay(door, customer, "150.00")["external_id"]
    refused = pay(door, customer, "300.01")["external_id"]
    visitor = logged_in(Role.VIEWER)
    page = visitor.open(f"payments/{payment}")
    assert [[row[0], *row[2:]] for row in rows(page, "Why")] == [
        [loans[0], "100.00", "100.00", "0.00", "paid in full"],
        [loans[1], "300.00", "50.00", "250.00", "got the rest"],
        [loans[2], "50.00", "0.00", "50.00", "nothing left"],
    ]
    page = visitor.open(f"payments/{refused}")
    assert "more than the active debt of 300.00" in page.locator("section", has_text="Why").last.inner_text()
    assert [row[-1] for row in rows(page, "Why")] == ["payment refused"] * 2
    door("payments.RejectPayment", external_id=payment, reason="No funds.")
    assert "each loan got back" in visitor.open(f"payments/{payment}").locator("main").inner_text()
    with owner(stack.data_dir) as connection:
        connection.execute("UPDATE payments SET total_amount = 151 WHERE external_id = %s", [payment])
    page = visitor.open(f"payments/{payment}")
    with owner(stack.data_dir) as connection:
        connection.execute("UPDATE payments SET total_amount = 150 WHERE external_id = %s", [payment])
    assert "The journal does not explain" in page.locator("main").inner_text()
    assert rows(page, "Details")
