"""What a user installs: the wheel, in an environment of its own, run far from the source tree."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import pytest

from tests import secrets
from tests.conftest import KEY, TLS, read_greeting, settings_environment
from tests.doors import GrpcDoor, RestDoor
from tests.factories import a_customer, a_loan, outstanding, pay
from tests.repository import PROJECT, ROOT

UV = Path(sys.executable).with_name("uv")
# What tells a program of the tests' own environment, or of the source tree.
OURS = re.compile("PYTHON|COV|VIRTUAL_ENV$|UV_PROJECT")


def outside(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not OURS.match(name)}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The programs of an environment that was empty, and into which `mo-grpc[local]` was installed.

    The wheel is made from the source distribution, so each has all that belongs in it. The libraries' versions are those of
    `uv.lock`. They come first, and the wheel then without an index: whatever else it requires is an error.
    """
    environment = outside(dict(os.environ)) | {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"), "UV_PYTHON_DOWNLOADS": "never"}
    python = tmp_path / "venv" / "bin" / "python"

    def uv(*arguments: str | Path) -> None:
        done = subprocess.run([UV, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    uv("build", "--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path / "dist")
    libraries = ("--frozen", "--no-default-groups", "--extra=local", "--no-install-project", "--compile-bytecode")
    uv("sync", *libraries, "--python", sys.executable)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    uv("pip", "install", "--no-index", "--python", python, f"mo-grpc[local] @ {wheel.as_uri()}")
    return python.parent


def test_what_is_installed_runs_without_the_source_tree(programs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # What lies in the folder in which it is started is not taken for one of its modules.
    (elsewhere / "grpc.py").write_text("raise SystemExit('This is not the package grpc.')")
    environment = outside(settings_environment(elsewhere / ".mo"))
    mo_grpc = programs / "mo-grpc"

    def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        command = [str(mo_grpc), *arguments]
        return subprocess.run(command, cwd=elsewhere, env=environment | settings, capture_output=True, text=True, check=False)

    assert run("--version").stdout == f"mo-grpc {PROJECT['version']}\n"
    with subprocess.Popen([mo_grpc, "up"], cwd=elsewhere, env=environment, stdout=subprocess.PIPE, text=True) as up:
        try:
            [key] = set(KEY.findall(read_greeting(up)))
            secrets.used(key)
            with (
                grpc.insecure_channel(f"127.0.0.1:{environment['MO_GRPC_PORT']}") as channel,
                httpx.Client(base_url=f"http://127.0.0.1:{environment['MO_HTTP_PORT']}", verify=TLS) as http,
            ):
                over_grpc = GrpcDoor(channel, (("x-api-key", key),))
                customer = a_customer(over_grpc)
                loan = a_loan(over_grpc, customer, "600.00")
                assert pay(over_grpc, customer, "250.50")["status"] == "COMPLETED"
                http.headers["x-api-key"] = key
                assert outstanding(RestDoor(http), loan) == ("349.50", "ACTIVE")
                for page in ("/openapi.json", "/swagger/", "/redoc/", "/admin/login/", "/grappelli/login"):
                    assert http.get(page).status_code == 200, page
            # A row for each check: how many it looked at, and how many are wrong.
            audit = run("audit")
            assert audit.returncode == 0, audit.stderr
            looked_at = re.findall(r"│ (\d+) +│ (\d+) +│$", audit.stdout, re.MULTILINE)
            assert ("1", "0") in looked_at
            assert {wrong for _, wrong in looked_at} == {"0"}
            # An extra that was not installed.
            worker = run("worker", USE_CELERY="true", CELERY_BROKER_URL="redis://127.0.0.1:1")
            assert (worker.returncode, worker.stderr) == (
                1,
                "celery is not installed: `pip install 'mo-grpc[celery]'` brings it.\n",
            )
        finally:
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=60)
    assert up.returncode == 0
