"""What operators do all day: find a customer, decide on loans, see how a payment was spread."""

import csv
import io
from collections.abc import Callable

import httpx
import pytest

from mo_grpc.auth.users.rules import Role
from tests.doors import Door, GrpcDoor
from tests.factories import a_customer, a_loan, new_id, outstanding, pay
from tests.web.admin.conftest import Visitor, press

LoggedIn = Callable[..., Visitor]


@pytest.fixture
def door(over_grpc: GrpcDoor) -> Door:
    return over_grpc


def test_a_customer_is_found_by_the_beginning_of_the_id(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door, "2500.00")
    visitor = logged_in(Role.VIEWER)
    page = visitor.open("customers")
    page.get_by_label("Id begins with").fill(customer[:-1])
    press(page.get_by_role("button", name="Show"))
    press(page.get_by_role("link", name=customer, exact=True))
    assert visitor.heading() == customer
    assert "2,500.00" in page.locator(".tiles").inner_text()
    assert visitor.open(f"customers?search={customer}").locator(".head p").inner_text() == "1 customer"


def test_an_operator_activates_a_loan_and_rejects_another(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door)
    first, second = (a_loan(door, customer, "100.00", activate=False) for _ in range(2))
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open(f"loans?customer={customer}&status=1")
    press(page.get_by_role("link", name=f"Activate {first}"))
    assert outstanding(door, first)[1] == "PENDING"  # it asks first
    press(page.get_by_role("button", name="Activate"))
    assert f"Loan {first} is active." in page.get_by_role("status").inner_text()
    assert outstanding(door, first)[1] == "ACTIVE"
    page = visitor.open(f"loans/{second}/reject")
    press(page.get_by_role("button", name="Reject"))
    assert outstanding(door, second)[1] == "REJECTED"
    # What is refused is said, and not asked for first.
    page = visitor.open(f"loans/{first}/reject")
    assert page.get_by_role("alert").inner_text() == "Only a pending loan can be rejected; this one is active."
    token = page.locator("input[name=csrf]").first.get_attribute("value") or ""
    refused = visitor.context.request.post(f"{visitor.url}loans/{first}/reject", form={"csrf": token})
    assert "Only a PENDING loan can be rejected" in refused.text()


def test_a_payment_and_how_it_was_spread(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door)
    first, second = (a_loan(door, customer, amount) for amount in ("100.00", "300.00"))
    payment = pay(door, customer, "150.00")["external_id"]
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open(f"customers/{customer}")
    words = page.locator("svg.chart desc").all_text_contents()
    assert f"{first}: 100.00 by {payment}; {second}: 50.00 by {payment}" in words
    titles = page.locator("svg.chart g > title").all_text_contents()
    assert f"{payment}: 50.00 of {second}" in titles
    page = visitor.open(f"payments?customer={customer}")
    page.get_by_text("2 loans").click()
    assert page.locator("details ul").inner_text().split("\n") == [f"{first}: 100.00", f"{second}: 50.00"]
    press(page.get_by_role("link", name=payment))
    rows = [row.split("\t") for row in page.locator("section", has_text="Details").locator("tbody").inner_text().split("\n")]
    assert [(row[0], row[2], row[3]) for row in rows] == [(first, "100.00", "0.00"), (second, "50.00", "250.00")]
    # It bounces.
    press(page.get_by_role("link", name="Reject as bounced"))
    assert "150.00 will be owed again" in page.locator("main").inner_text()
    page.get_by_label("Reason").fill("Returned by the bank.")
    press(page.get_by_role("button", name="Reject"))
    assert "bounced" in page.locator(".head").inner_text()
    assert [outstanding(door, loan) for loan in (first, second)] == [("100.00", "ACTIVE"), ("300.00", "ACTIVE")]
    titles = visitor.open(f"customers/{customer}").locator("svg.chart g > title").all_text_contents()
    assert f"{payment}: 50.00 of {second}" not in titles
    assert "nothing yet" not in visitor.open(f"loans/{first}").content()
    # What was paid since does not move along for it.
    pay(door, customer, "400.00")
    chart = visitor.open(f"payments/{payment}").locator("svg.chart").first
    ends = """each => [".track", "[class^=part]"].map(name => Math.max(...[...each.querySelectorAll(name)]
        .map(bar => bar.x.baseVal.value + bar.width.baseVal.value)))"""
    track, parts = chart.evaluate(ends)
    assert parts <= track
    page = visitor.open(f"payments/{payment}/reject")
    assert page.get_by_role("alert").inner_text() == "The payment is rejected already."


def test_a_credit_line_is_changed_unless_somebody_else_was_quicker(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door)
    a_loan(door, customer, "600.00")
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open(f"customers/{customer}")
    page.get_by_role("textbox", name="Credit line").fill("500")
    press(page.get_by_role("button", name="Save"))
    assert "100.00 above the credit line" in page.content()
    assert "120 % used" in page.locator(".tiles").inner_text()
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "700"}, update_mask="score")
    page.get_by_role("textbox", name="Credit line").fill("900")
    press(page.get_by_role("button", name="Save"))
    assert "has changed since it was read" in page.get_by_role("alert").inner_text()
    page.get_by_role("textbox", name="Credit line").fill("much")
    press(page.get_by_role("button", name="Save"))
    assert "score" in page.get_by_role("alert").inner_text()
    assert door("customers.GetCustomer", external_id=customer)["score"] == "700.00"


def test_lists_go_forth_and_back_and_repeat_nothing(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door, "100000.00")
    made = [a_loan(door, customer, "1.00", activate=False) for _ in range(53)]
    visitor = logged_in(Role.VIEWER)
    page = visitor.open(f"loans?customer={customer}")
    assert "53 loans" in page.locator(".head").inner_text()
    ids = page.locator("tbody td:first-child").all_inner_texts()
    press(page.get_by_role("link", name="Next"))
    ids += page.locator("tbody td:first-child").all_inner_texts()
    assert ids == made[::-1]
    assert page.get_by_role("link", name="Next").count() == 0
    press(page.get_by_role("link", name="Previous"))
    assert page.locator("tbody td:first-child").all_inner_texts() == made[:2:-1]
    assert page.get_by_role("link", name="Previous").count() == 0
    page = visitor.open(f"loans?customer={customer}&sort=id")
    assert page.locator("tbody td:first-child").all_inner_texts() == made[:50]
    page = visitor.open(f"loans?customer={customer}&sort=-external_id")
    assert page.locator("tbody td:first-child").all_inner_texts() == sorted(made)[:2:-1]


def test_odd_questions_have_an_answer(logged_in: LoggedIn) -> None:
    visitor = logged_in(Role.VIEWER)
    odd = ("status=9", "status=x", "customer=%27--", "after=x", "before=99999999999999999999", "search=%E2%82%AC", "search=%00")
    for query in (*odd, "sort=score", "search=a&after=%C3%A9"):
        for path in ("loans", "loans.csv"):
            assert visitor.context.request.get(f"{visitor.url}{path}?{query}").status == 200, query


def test_what_is_not_there_is_said(logged_in: LoggedIn) -> None:
    visitor = logged_in(Role.ADMINISTRATOR)
    things = ("customers/none", "loans/none", "payments/none", "imports/0", "imports/x", "keys/none", "users/0", "users/x", "x")
    for path in (*things, "customers/a%20b", "loans/none/activate", "loans/none/sell"):
        assert visitor.context.request.get(visitor.url + path).status == 404, path


def test_exports_hold_all_rows_and_no_formulas(logged_in: LoggedIn, door: Door, admin_url: str) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "10.00")
    payment = pay(door, customer, "10.00")["external_id"]
    door("payments.RejectPayment", external_id=payment, reason='=HYPERLINK("http://evil.example");@x')
    visitor = logged_in(Role.VIEWER)
    with httpx.Client(base_url=admin_url, cookies={"mo_admin": visitor.cookie()["value"]}) as client:

        def export(path: str) -> list[dict[str, str]]:
            answer = client.get(path)
            assert answer.headers["content-type"] == "text/csv; charset=utf-8"
            return list(csv.DictReader(io.StringIO(answer.text)))

        [row] = export(f"payments.csv?customer={customer}")
        assert row["rejection_reason"] == "'=HYPERLINK(\"http://evil.example\");'@x"
        assert (row["external_id"], row["total_amount"], row["status"]) == (payment, "10.00", "rejected")
        assert row["rejection_kind"] == "bounced"
        refused = pay(door, customer, "9000.00")["external_id"]
        [row] = export(f"payments.csv?search={refused}")
        assert (row["rejection_kind"], row["paid_at"]) == ("insufficient debt", "")
        [row] = export(f"loans.csv?search={loan}")
        assert (row["external_id"], row["outstanding"]) == (loan, "10.00")
        assert customer in {row["external_id"] for row in export("customers.csv")}


def test_a_form_that_is_sent_twice_takes_effect_once(logged_in: LoggedIn, door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "10.00", activate=False)
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open(f"loans/{loan}/activate")
    form: dict[str, str | float | bool] = {
        name: page.locator(f"main input[name={name}]").get_attribute("value") or "" for name in ("csrf", "once")
    }
    for _ in range(2):
        answer = visitor.context.request.post(f"{visitor.url}loans/{loan}/activate", form=form)
        assert f"Loan {loan} is active." in answer.text()


@pytest.mark.parametrize("role", list(Role))
def test_roles(logged_in: LoggedIn, door: Door, role: Role) -> None:
    loan = a_loan(door, a_customer(door), "10.00", activate=False)
    visitor = logged_in(role)
    request = visitor.context.request
    page = visitor.open(f"loans/{loan}")
    assert page.get_by_role("link", name="Activate").count() == (role > Role.VIEWER)
    assert page.get_by_role("link", name="API keys").count() == (role == Role.ADMINISTRATOR)
    token = page.locator("input[name=csrf]").first.get_attribute("value") or ""
    for path in ("", "customers", "loans", "payments", "imports"):
        assert request.get(visitor.url + path).status == 200
    for path in ("keys", "keys/new", "users", "users/new", "audit-log", "honeypot"):
        assert request.get(visitor.url + path).status == (200 if role == Role.ADMINISTRATOR else 403), path
    for path in (f"loans/{loan}/activate", f"payments/{new_id('p')}/reject", f"customers/{new_id('c')}", "imports"):
        assert (request.post(visitor.url + path, form={"csrf": token}).status == 403) == (role == Role.VIEWER), path
    for path in ("keys", "keys/AAAAAAAAAAAA/revoke", "keys/AAAAAAAAAAAA/rotate", "users", "users/0"):
        assert (request.post(visitor.url + path, form={"csrf": token}).status == 403) == (role < Role.ADMINISTRATOR), path
    assert outstanding(door, loan)[1] == ("PENDING" if role == Role.VIEWER else "ACTIVE")
