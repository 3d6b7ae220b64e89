"""What the command line costs before it does anything."""

import subprocess
import sys

import pytest

from tests.repository import PROJECT

# Together they take a second to import. Typer itself uses pydantic, where a command has options.
HEAVY = {
    "alembic",
    "asyncio",
    "cryptography",
    "google",
    "grpc",
    "jinja2",
    "psycopg",
    "pydantic_settings",
    "sqlalchemy",
    "structlog",
    "uvloop",
}

IMPORTED = """
import sys
from mo_grpc.cli.app import main
try:
    main()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], [], ["serve", "--help"], ["audit", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=False)
    assert "Usage: " in done.stdout, done.stderr
    assert "typer" in done.stderr.split()
    assert HEAVY & set(done.stderr.split()) == set()


def test_the_edge_needs_no_library_of_a_database() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED, "edge", "--print"], capture_output=True, text=True, check=False)
    assert "static_resources" in done.stdout, done.stderr
    assert {"alembic", "psycopg", "sqlalchemy"} & set(done.stderr.split()) == set()


@pytest.mark.parametrize(("group", "command"), [("keys", "rotate"), ("users", "set-password"), ("tokens", "rotate-key")])
def test_groups_know_their_commands(group: str, command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "mo_grpc", group, "--help"], capture_output=True, text=True, check=True)
    assert f" {command} " in done.stdout


def test_the_version_is_that_of_the_project() -> None:
    done = subprocess.run([sys.executable, "-m", "mo_grpc", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mo-grpc {PROJECT['version']}\n"
