"""Imports, API keys, users and the audit log, from their pages."""

from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import FilePayload

from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import NewUser
from tests.conftest import TLS, Stack
from tests.factories import new_id
from tests.secrets import used
from tests.waiting import eventually
from tests.web.admin.conftest import NewVisitor, Visitor, press

LoggedIn = Callable[..., Visitor]


def test_a_file_is_uploaded_and_its_import_watched(logged_in: LoggedIn, tmp_path: Path) -> None:
    prefix = new_id("imported")
    file = tmp_path / "customers.csv"
    good = [f"{prefix}-{number},100" for number in range(10_500)]
    file.write_text("\n".join([*good, "=bad,100", f"{prefix}-0,100"]))
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open("imports")
    page.get_by_label("A text file").set_input_files(file)
    press(page.get_by_role("button", name="Upload"))
    page.wait_for_url("**/imports/*")
    # The page follows the import by itself.
    page.get_by_text("Progress: 100 %").wait_for()
    page.locator(".tag.succeeded").wait_for()
    assert page.locator(".tile .value").all_inner_texts()[:3] == ["10,502", "10,500", "2"]
    assert page.locator("tbody td:first-child").all_inner_texts() == ["10,501", "10,502"]
    assert "'=bad" in visitor.context.request.get(f"{page.url}/errors.csv").text()
    page = visitor.open(f"customers?search={prefix}")
    assert "more than 1,000 customers" in page.locator(".head").inner_text()


def test_an_import_shows_its_file_and_is_not_green_when_it_created_nothing(logged_in: LoggedIn) -> None:
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open("imports")
    token = page.locator("main input[name=csrf]").get_attribute("value") or ""
    name = f"créditos {new_id('file')}.csv"
    file: FilePayload = {"name": name, "mimeType": "text/csv", "buffer": b"x\ny\n"}
    made = visitor.context.request.post(f"{visitor.url}imports", multipart={"csrf": token, "file": file})
    for path in (f"imports/{made.url.rpartition('/')[2]}", "imports", ""):
        page = visitor.open(path)
        shown = page.locator("tr, .head", has_text=name)
        assert shown.locator(".tag").inner_text() == "nothing created"
        assert shown.locator(".tag.failed").count() == 1


def test_an_upload_that_is_no_file_of_customers(logged_in: LoggedIn, admin_url: str) -> None:
    visitor = logged_in(Role.OPERATOR)
    visitor.open("imports")
    token = visitor.page.locator("main input[name=csrf]").get_attribute("value") or ""
    with httpx.Client(base_url=admin_url, cookies={"mo_admin": visitor.cookie()["value"]}) as client:
        assert "Choose a file first." in client.post("imports", data={"csrf": token}).text
        nothing = client.post("imports", data={"csrf": token}, files={"file": ("", b"", "text/csv")})
        assert 'role="alert">Choose a file first.<' in nothing.text
        kind = {"content-type": "multipart/form-data; boundary=x"}
        head = f'--x\r\ncontent-disposition: form-data; name="csrf"\r\n\r\n{token}\r\n--x\r\n'
        head += 'content-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        cut = client.post("imports", content=f"{head}a,1\r\n", headers=kind)
        assert (cut.status_code, "did not arrive whole" in cut.text) == (400, True)
        damaged = client.post("imports", content="--y\r\n", headers=kind)
        assert (damaged.status_code, "damaged" in damaged.text) == (400, True)
        whole = client.post("imports", content=f"{head}{new_id('c')},1\r\n--x--\r\n", headers=kind)
        assert whole.status_code == 303


def test_an_import_that_is_over_is_not_cancelled(logged_in: LoggedIn) -> None:
    visitor = logged_in(Role.OPERATOR)
    page = visitor.open("imports")
    token = page.locator("main input[name=csrf]").get_attribute("value") or ""
    file: FilePayload = {"name": "a.csv", "mimeType": "text/csv", "buffer": f"{new_id('c')},1".encode()}
    made = visitor.context.request.post(f"{visitor.url}imports", multipart={"csrf": token, "file": file})
    page = visitor.open(f"imports/{made.url.rpartition('/')[2]}/cancel")
    assert page.get_by_role("alert").inner_text() == "The import has ended: there is nothing to cancel."
    assert visitor.heading().startswith("Import ")
    over = visitor.context.request.post(f"{made.url}/cancel", form={"csrf": token})
    assert "only one that is PENDING or RUNNING can be cancelled" in over.text()


def test_a_key_is_created_used_rotated_and_revoked(logged_in: LoggedIn, stack: Stack) -> None:
    visitor = logged_in()
    page = visitor.open("keys/new")
    name = new_id("partner")
    page.get_by_label("Name").fill(name)
    for scope in ("customers:write", "imports:write", "loans:write", "payments:write"):
        page.get_by_label(scope).uncheck()
    page.get_by_label("Last day").fill("2099-12-31")
    press(page.get_by_role("button", name="Create the key"))
    key = page.locator("#key").inner_text()
    used(key)

    def status(key: str, path: str = "/v1/customers", verb: str = "GET") -> int:
        return httpx.request(verb, stack.http_url + path, headers={"x-api-key": key}, verify=TLS).status_code

    assert status(key) == 200
    assert status(key, "/v1/loans/none:activate", "POST") == 403
    press(page.get_by_role("link", name="Done"))
    assert key not in page.content()  # it is shown once
    assert "31 Dec 2099" in page.content()
    press(page.get_by_role("link", name="Rotate"))
    page.get_by_label("The old secret stops working").select_option("0")
    press(page.get_by_role("button", name="Create a new secret"))
    rotated = page.locator("#key").inner_text()
    used(rotated)
    assert status(rotated) == 200
    eventually(lambda: status(key) == 401, 5)
    press(page.get_by_role("link", name="Done"))
    press(page.get_by_role("link", name="Revoke"))
    assert "cannot be undone" in page.locator("main").inner_text()
    assert status(rotated) == 200
    press(page.get_by_role("button", name="Revoke"))
    assert "revoked" in page.locator(".head").inner_text()
    eventually(lambda: status(rotated) == 401, 5)
    for path in (f"{page.url}/rotate", f"{page.url}/revoke"):
        page.goto(path)
        assert page.get_by_role("alert").inner_text() == "The key is revoked already."


def test_a_key_is_bound_to_customers(logged_in: LoggedIn) -> None:
    page = logged_in().open("keys/new")
    page.get_by_label("Name").fill(new_id("partner"))
    page.get_by_label("Customers", exact=True).fill("ana, ben")
    page.get_by_label("Customers that begin with").fill("shop7-")
    press(page.get_by_role("button", name="Create the key"))
    assert "bound to customers" in page.get_by_role("alert").inner_text(), "because of the scopes of imports"
    for scope in ("imports:read", "imports:write"):
        page.get_by_label(scope).uncheck()
    press(page.get_by_role("button", name="Create the key"))
    used(page.locator("#key").inner_text())
    press(page.get_by_role("link", name="Done"))
    assert page.locator("dt", has_text="Customers").locator("+ dd").inner_text() == "ana, ben, all that begin with shop7-"


def test_a_key_that_cannot_be_made(logged_in: LoggedIn) -> None:
    visitor = logged_in()
    page = visitor.open("keys/new")
    page.get_by_label("Name").fill("partner")
    page.get_by_label("Networks").fill("nowhere")
    press(page.get_by_role("button", name="Create the key"))
    assert "is no network" in page.get_by_role("alert").inner_text()
    page.get_by_label("Networks").fill("")
    page.get_by_label("Last day").fill("2001-01-01")
    press(page.get_by_role("button", name="Create the key"))
    assert "must be in the future" in page.get_by_role("alert").inner_text()
    token = page.locator("main input[name=csrf]").get_attribute("value") or ""
    answer = visitor.context.request.post(f"{visitor.url}keys", form={"csrf": token, "name": "a", "expires": "soon"})
    assert (answer.status, "must be a date" in answer.text()) == (400, True)


def test_a_user_is_created_and_changed_and_the_audit_log_has_each_change(
    logged_in: LoggedIn, new_visitor: NewVisitor, new_user: NewUser
) -> None:
    visitor = logged_in()
    page = visitor.open("users/new")
    email = f"{new_id('user')}@example.org"
    page.get_by_label("E-mail").fill(email)
    page.get_by_role("combobox", name="Role").select_option(label="operator")
    press(page.get_by_role("button", name="Create the user"))
    password = page.locator("#password").inner_text()
    used(password)
    newcomer = new_visitor()
    newcomer.log_in(email, password)
    assert newcomer.heading() == "New password"
    press(page.get_by_role("link", name="Done"))
    page.get_by_role("combobox", name="Role").select_option(label="viewer")
    press(page.get_by_role("button", name="Set the role"))
    press(page.get_by_role("button", name="Lock", exact=True))
    assert "locked viewer" in page.locator(".head").inner_text()
    press(page.get_by_role("button", name="Unlock"))
    press(page.get_by_role("link", name="New password"))
    assert "stops working at once" in page.locator("main").inner_text()
    press(page.get_by_role("button", name="Create a new password"))
    used(page.locator("#password").inner_text())
    log = visitor.open("audit-log?stream=changes").locator("tbody").inner_text()
    changes = [line for line in log.split("\n") if email in line]
    for word in ("user created", "role changed", "user locked", "user unlocked", "password changed"):
        assert any(word in line for line in changes), word
    page = visitor.open("audit-log")
    assert "logged in" in page.locator("tbody").first.inner_text()
    # The same again is refused, and so is what is no e-mail.
    for bad, why in ((email, "already"), ("nobody", "not an e-mail address")):
        page = visitor.open("users/new")
        page.get_by_label("E-mail").evaluate("field => { field.type = 'text' }")
        page.get_by_label("E-mail").fill(bad)
        press(page.get_by_role("button", name="Create the user"))
        assert why in page.get_by_role("alert").inner_text()


def test_nobody_changes_themselves(logged_in: LoggedIn) -> None:
    visitor = logged_in()
    page = visitor.open("users")
    email = page.locator(".who strong").inner_text()
    press(page.get_by_role("link", name=email))
    assert page.get_by_role("button", name="Lock", exact=True).count() == 0
    token = page.locator("input[name=csrf]").first.get_attribute("value") or ""
    answer = visitor.context.request.post(page.url, form={"csrf": token, "action": "role", "role": "1"})
    assert "ask another administrator" in answer.text()
    visitor.open("keys")
    assert visitor.heading() == "API keys"
