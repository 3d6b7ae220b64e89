"""Take the pictures of docs/pictures from a service of its own with the demo's data: `make screenshots`."""

import io
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.conftest import read_greeting, settings_environment
from tests.databases import owner
from tests.repository import ROOT
from tests.secrets import PASSWORD

PICTURES = ROOT / "docs" / "pictures"
EMAIL = "maria@lender.example"
SIZE = {"width": 1280, "height": 860}

# Somebody with a few loans, over which a payment was spread, and who owes something still.
_CUSTOMER = """
    SELECT customers.external_id FROM customers JOIN loans ON loans.customer_id = customers.id
    WHERE loans.status IN (2, 4) GROUP BY customers.id
    HAVING count(*) BETWEEN 3 AND 5 AND bool_or(loans.status = 2)
    ORDER BY (SELECT count(*) FROM payment_details WHERE customer_id = customers.id) DESC, customers.id LIMIT 1
"""


def main() -> None:
    """Start a service, fill it, and look at it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = settings_environment(Path(folder) / "data")
        mo_grpc = [sys.executable, "-m", "mo_grpc"]
        up = subprocess.Popen([*mo_grpc, "up"], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            read_greeting(up)
            subprocess.run([*mo_grpc, "demo"], env=environment, check=True, stdout=subprocess.DEVNULL)
            account = [*mo_grpc, "users", "create", EMAIL, "--superuser", "--first-name", "Maria", "--last-name", "Santos"]
            subprocess.run(account, env=environment, input=f"{PASSWORD}\n", text=True, check=True)
            with owner(Path(environment["MO_DATA_DIR"])) as connection:
                connection.execute("ANALYZE")
                row = connection.execute(_CUSTOMER).fetchone()
            assert row
            take(f"http://127.0.0.1:{environment['MO_HTTP_PORT']}", row[0])
        finally:
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=60)


def take(url: str, customer: str) -> None:
    """Take the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type] # a dictionary of these two
        page.goto(f"{url}/grappelli/login")
        page.get_by_label("E-mail").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Dashboard").wait_for()
        keep(page, "dashboard")
        page.goto(f"{url}/grappelli/customers/{customer}")
        keep(page, "customer")
        page.goto(f"{url}/swagger/")
        page.get_by_text("/v1/customers").first.wait_for()
        keep(page, "swagger")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"{url}/grappelli/")
        keep(page, "dashboard-phone-dark")
        browser.close()


def keep(page: Page, name: str) -> None:
    """Keep what is seen, in few colours, so that the file is small."""
    seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    seen.quantize(128).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
