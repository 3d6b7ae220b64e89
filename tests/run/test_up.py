import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.config import Settings
from mo_grpc.db.embedded import ROLE, SERVICE_ROLE, EmbeddedPostgres, embedded_url
from mo_grpc.run.up import greeting
from tests.conftest import KEY, Stack, read_greeting, run_cli, settings_environment
from tests.databases import owner
from tests.db.test_embedded import alive
from tests.waiting import eventually


@contextmanager
def an_up(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A `mo-grpc up` of its own; killed if the test did not end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mo_grpc", "up"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [child for child in map(int, listed.split()) if alive(child) and b"ps\0" not in cmdline(child)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def the_child(pid: int, word: bytes) -> int:
    [found] = [child for child in children(pid) if word in cmdline(child)]
    return found


def test_the_printed_lines_work_as_they_are(stack: Stack) -> None:
    buf = Path(sys.executable).parent / "buf"
    line = re.search(r"^ *grpcurl (.*)$", stack.greeting, re.MULTILINE)
    assert line
    # `buf curl` stands in for grpcurl, which takes the same header and data.
    words = re.match(r"-plaintext (-H '.*') (-d '.*') (\S+) (\S+)$", line[1])
    assert words
    header, data, address, rpc = words.groups()
    called = f"{buf} curl --http2-prior-knowledge --protocol grpc {header} {data} http://{address}/{rpc}"
    subprocess.run(["bash", "-c", called], check=True, capture_output=True, timeout=60)
    line = re.search(r"^ *(curl .*)$", stack.greeting, re.MULTILINE)
    assert line
    answer = subprocess.run(["bash", "-c", f"{line[1]} -sf"], check=True, capture_output=True, text=True, timeout=60)
    assert '"external_id":"ana"' in answer.stdout


def test_the_printed_addresses_can_be_called(tmp_path: Path) -> None:
    settings = Settings(mo_data_dir=tmp_path, mo_grpc_host="0.0.0.0", mo_http_host="::", mo_grpc_port=1, mo_http_port=2)  # noqa: S104
    printed = greeting(settings, Credential.generate())
    assert "127.0.0.1:1 mo.customers" in printed
    assert "http://[::1]:2/v1/customers/ana" in printed
    over_tls = settings.model_copy(update={"mo_tls_certificate": Path("edge.crt")})
    assert "https://[::1]:2/v1/customers/ana" in greeting(over_tls, Credential.generate())


@pytest.mark.usefixtures("stack")
def test_supervisors_do_without_the_libraries_of_what_they_start() -> None:
    """They only wait, so they should need little memory."""
    up = the_child(os.getpid(), b"mo_grpc\0up")
    supervisors = [up, *(the_child(up, b"mo_grpc\0" + part) for part in (b"serve", b"edge"))]
    for pid in supervisors:
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert not re.findall(r"site-packages/(?:sqlalchemy|grpc|google|pydantic_core|psycopg\w*|cryptography)/.*", loaded)


def test_a_second_up_says_that_one_is_running(stack: Stack) -> None:
    second = stack.cli("up", check=False)
    assert second.returncode == 1
    assert second.stdout == ""
    assert "running already" in second.stderr
    assert stack.grpc_address in second.stderr
    assert stack.http_url in second.stderr
    assert httpx.get(f"{stack.http_url}/readyz").status_code == 200


def test_both_listen_on_loopback_alone(stack: Stack) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent; it tells this machine's own address
        own_address = probe.getsockname()[0]
    for url in (stack.grpc_address, stack.http_url.removeprefix("http://")):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((own_address, int(url.rpartition(":")[2])), timeout=5)


def ends_cleanly(process: "subprocess.Popen[str]", data_dir: Path, number: signal.Signals) -> str:
    """A signal ends a run with all that it started, after the server has drained; answers what it complained of."""
    started = children(process.pid)
    process.send_signal(number)
    process.send_signal(number)  # `make` forwards what the terminal has sent already
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, "Stopped."), err
    assert not [pid for pid in started if alive(pid)]
    assert "draining" in (data_dir / "log/serve.log").read_text()
    return err


def test_data_and_keys_survive_a_restart_and_the_key_of_a_run_ends_with_it(tmp_path: Path) -> None:
    # A path that needs care wherever it is handed on.
    data_dir = tmp_path / "my data, 2"
    environment = settings_environment(data_dir)
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}/v1/customers"
    with an_up(environment) as process:
        key = KEY.search(read_greeting(process))
        assert key
        assert data_dir.stat().st_mode & 0o077 == 0
        of_the_run = {"x-api-key": key[0]}
        assert httpx.post(url, headers=of_the_run, json={"external_id": "kept", "score": "1"}).status_code == 200
        headers = {"x-api-key": run_cli(environment, "keys", "create", "stays").stdout.strip()}
        [ends] = ask(
            data_dir, "SELECT extract(epoch FROM expires_at - created_at) / 3600 FROM api_keys WHERE name = 'mo-grpc up'"
        )
        assert 23.9 < ends < 24.1
        # Not even a chance to tidy up.
        started = children(process.pid)
        process.kill()
        process.wait()
        eventually(lambda: not [pid for pid in started if alive(pid)], 60)
    with an_up(environment) as process:
        another = KEY.search(read_greeting(process))
        assert another
        assert len(children(process.pid)) == 4
        assert httpx.get(f"{url}/kept", headers=headers).json()["score"] == "1.00"
        assert httpx.get(f"{url}/kept", headers=of_the_run).status_code == 401
        assert ask(data_dir, "SELECT name FROM api_keys WHERE revoked_at IS NULL ORDER BY 1") == ["mo-grpc up", "stays"]
        assert ends_cleanly(process, data_dir, signal.SIGTERM) == ""
    logs = "".join(log.read_text() for log in (data_dir / "log").iterdir())
    assert "database system is shut down" in logs
    assert key[0] not in logs
    assert another[0] not in logs
    with EmbeddedPostgres(data_dir):
        assert ask(data_dir, "SELECT name FROM api_keys WHERE revoked_at IS NULL") == ["stays"]


def ask(data_dir: Path, query: str) -> list[Any]:
    with owner(data_dir) as connection:
        return [row[0] for row in connection.execute(query.encode())]


@pytest.mark.parametrize(("part", "name"), [(b"mo_grpc\0serve", "The gRPC server"), (b"postgres", "PostgreSQL")])
def test_when_what_all_need_dies_the_rest_stops(tmp_path: Path, part: bytes, name: str) -> None:
    with an_up(settings_environment(tmp_path)) as process:
        read_greeting(process)
        started = children(process.pid)
        signal_to(the_child(process.pid, part), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"{name} ended by signal 9, so all stops" in err
        eventually(lambda: not [pid for pid in started if alive(pid)], 60)


def test_the_pages_and_envoy_start_again_while_the_others_serve(tmp_path: Path) -> None:
    environment = settings_environment(tmp_path)
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
    with an_up(environment) as process:
        read_greeting(process)
        edge, web = (the_child(process.pid, b"mo_grpc\0" + part) for part in (b"edge", b"web"))
        kept = set(children(process.pid)) - {edge, web}
        signal_to(the_child(edge, b"envoy"), signal.SIGKILL)
        signal_to(web, signal.SIGKILL)
        eventually(lambda: not (alive(edge) or alive(web)), 60)
        eventually(lambda: answers(f"{url}/readyz") and answers(f"{url}/swagger/"), 60)
        assert kept < set(children(process.pid))
        err = ends_cleanly(process, tmp_path, signal.SIGINT)
    assert len(err.splitlines()) == 2
    assert "Envoy ended with exit status 9; it starts again in 1 s." in err
    assert "The web server ended by signal 9; it starts again in 1 s." in err


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def signal_to(pid: int, number: signal.Signals) -> None:
    subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)


@pytest.mark.parametrize("setting", ["MO_GRPC_PORT", "MO_HTTP_PORT", "MO_EDGE_ADMIN_PORT"])
def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_cli(settings_environment(tmp_path, **{setting: str(port)}), "up", check=False)
    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in done.stderr
    assert setting in done.stderr
    assert not (tmp_path / "postgres").exists()


def test_an_external_database_is_used_instead_and_what_serves_does_not_know_its_owner(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "external"):
        owner, service = (
            embedded_url(tmp_path / "external", role).set(drivername="postgresql").render_as_string(hide_password=False)
            for role in (ROLE, SERVICE_ROLE)
        )
        environment = settings_environment(tmp_path / "ours", MO_DATABASE_URL=service, MO_MIGRATION_DATABASE_URL=owner)
        with an_up(environment) as process:
            key = KEY.search(read_greeting(process))
            assert key
            assert len(children(process.pid)) == 3
            assert not (tmp_path / "ours/postgres").exists()
            password = (tmp_path / "external" / f"{ROLE}.password").read_bytes()
            assert password.decode() in environment["MO_MIGRATION_DATABASE_URL"]
            all_of_it = [process.pid, *(child for part in children(process.pid) for child in (part, *children(part)))]
            assert len(all_of_it) > 4
            assert not [cmdline(each) for each in all_of_it if password in known_to(each)]
            answer = httpx.get(f"http://127.0.0.1:{environment['MO_HTTP_PORT']}/v1/customers", headers={"x-api-key": key[0]})
            assert answer.json() == {"customers": [], "next_page_token": ""}
            assert ends_cleanly(process, tmp_path / "ours", signal.SIGHUP) == ""


def known_to(pid: int) -> bytes:
    """What a process was told at its start."""
    return cmdline(pid) + Path(f"/proc/{pid}/environ").read_bytes()


def test_a_database_out_of_reach_is_told_in_a_line(tmp_path: Path) -> None:
    environment = settings_environment(tmp_path, MO_DATABASE_URL="postgresql://mo:hush-hush@127.0.0.1:1/mo")
    done = run_cli(environment, "up", check=False)
    assert done.returncode == 1
    assert "The database cannot be reached" in done.stderr
    assert "hush-hush" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_data_folder_that_cannot_be_used_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_cli(settings_environment(tmp_path / "file"), "up", check=False)
    assert done.returncode == 1
    assert "MO_DATA_DIR cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
