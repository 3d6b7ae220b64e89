"""The pages as people see them, in a real browser."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import GrpcDoor
from tests.factories import a_customer


def test_swagger_tries_a_call_out_with_a_key(page: Page, stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    page.goto("/swagger/")
    page.get_by_role("button", name="Authorize").click()
    page.locator("#auth_apiKey_value, .auth-container input").first.fill(stack.api_key)
    page.locator(".auth-container").filter(has_text="x-api-key").get_by_role(
        "button", name=re.compile("Authorize|Apply")
    ).click()
    page.get_by_role("button", name="Close").last.click()
    operation = page.locator("#operations-CustomerService-GetCustomer")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("external_id").fill(customer)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(operation.locator(".live-responses-table")).to_contain_text(customer)


def test_swagger_opens_an_operation_by_its_link(page: Page) -> None:
    page.goto("/swagger/#/PaymentService/CreatePayment")
    operation = page.locator("#operations-PaymentService-CreatePayment")
    expect(operation).to_contain_text("spreads it over the customer's ACTIVE loans")
    expect(operation).to_contain_text("ana-p1")


def test_redoc_shows_every_service_and_searches(page: Page) -> None:
    page.goto("/redoc/")
    for service in ("CustomerService", "LoanService", "PaymentService", "ImportService", "ApiKeyService", "TokenService"):
        expect(page.get_by_role("heading", name=re.compile(f" {service}$"))).to_be_attached()
    expect(page.get_by_role("heading", name=re.compile("Create payment")).first).to_be_attached()
    page.get_by_placeholder("Search").fill("bounced")
    expect(page.locator('[data-role="search:results"]')).to_contain_text("Reject payment")


def test_the_honeypot_looks_like_an_admin_and_catches_a_login(page: Page, stack: Stack) -> None:
    page.goto("/admin/")
    assert urlsplit(page.url).path == "/admin/login/"
    expect(page).to_have_title("Log in | Django site admin")
    page.get_by_label("Username").fill("root-from-a-browser")
    page.get_by_label("Password").fill("toor toor toor")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".errornote")).to_contain_text("Please enter the correct username and password for a staff account.")
    expect(page.get_by_label("Username")).to_have_value("root-from-a-browser")
    with owner(stack.data_dir) as connection:
        statement = "SELECT address, user_agent, path FROM honeypot_attempts WHERE username = 'root-from-a-browser'"
        [(address, user_agent, path)] = connection.execute(statement).fetchall()
    assert (address, path) == ("127.0.0.1", "/admin/login/")
    assert "Chrome" in user_agent


def test_a_page_follows_the_journal_by_fetch(page: Page, stack: Stack, over_grpc: GrpcDoor) -> None:
    page.goto("/swagger/")
    customer = a_customer(over_grpc)
    read = """
        async ([key, customer]) => {
            const url = `/v1/events:stream?after_position=0&customer_external_id=${customer}`;
            const answer = await fetch(url, {headers: {'x-api-key': key}});
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            let text = '';
            while (!text.includes('event: CUSTOMER_CREATED')) text += (await reader.read()).value;
            await reader.cancel();
            return text;
        }
    """
    assert f'"customer_external_id": "{customer}"' in page.evaluate(read, [stack.api_key, customer])
