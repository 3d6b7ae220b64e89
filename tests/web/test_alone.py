"""The server of the pages by itself, as in a container of its own: over TCP, and with other settings than the usual."""

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.commands import COMMANDS
from tests.conftest import TLS, Stack, free_port
from tests.databases import owner
from tests.waiting import eventually


@contextmanager
def the_pages(stack: Stack, folder: Path, **settings: str) -> Iterator[httpx.Client]:
    """`mo-grpc web` over the stack's database, ended by SIGTERM."""
    port = str(free_port())
    where = {"MO_WEB_HOST": "127.0.0.1", "MO_WEB_PORT": port, "MO_DATA_DIR": str(folder), "MO_DATABASE_URL": stack.database_url}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=TLS) as visitor:
        process = COMMANDS.start_beside(stack.environment | where | settings, "web")

        def answers() -> bool:
            try:
                return visitor.get("/openapi.json").status_code == 200
            except httpx.TransportError:
                return False

        try:
            eventually(answers, 30)
            yield visitor
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_the_document_says_where_credentials_go(stack: Stack, tmp_path: Path) -> None:
    with the_pages(stack, tmp_path, API_KEY_CUSTOM_HEADER="x-partner-key", AUTH_JWT_BEHIND_BASIC="true") as visitor:
        schemes = visitor.get("/openapi.json").json()["components"]["securitySchemes"]
    assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("header", "x-partner-key")
    for scheme in ("accessToken", "basic"):
        assert (schemes[scheme]["type"], schemes[scheme]["in"], schemes[scheme]["name"]) == (
            "apiKey",
            "header",
            "x-authorization",
        )


def test_the_honeypot_is_where_the_settings_say_and_believes_no_stranger(stack: Stack, tmp_path: Path) -> None:
    name = f"alone-{uuid.uuid4().hex}"
    headers = {"x-forwarded-for": "203.0.113.9"}
    with the_pages(stack, tmp_path, ADMIN_HONEYPOT_URL="backend/") as visitor:
        assert visitor.get("/backend/users/").headers["location"] == "/backend/login/?next=/backend/users/"
        assert visitor.get("/admin/").status_code == 404
        visitor.post("/backend/login/", data={"username": name, "password": "x"}, headers=headers)
    with the_pages(stack, tmp_path, MO_TRUSTED_EDGES="127.0.0.1") as visitor:
        visitor.post("/admin/login/", data={"username": name, "password": "x"}, headers=headers)
    with owner(stack.data_dir) as connection:
        statement = "SELECT path, address FROM honeypot_attempts WHERE username = %s ORDER BY at"
        found = connection.execute(statement, [name]).fetchall()
    assert found == [("/backend/login/", "127.0.0.1"), ("/admin/login/", "203.0.113.9")]
