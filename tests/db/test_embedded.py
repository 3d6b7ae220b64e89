import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from mo_grpc.db import cluster
from mo_grpc.db.cluster import AlreadyRunningError, EmbeddedPostgresError
from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url
from tests.waiting import eventually


def connect(url: URL) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True)


def ask(data_dir: Path, query: str) -> object:
    with connect(embedded_url(data_dir)) as connection:
        row = connection.execute(query).fetchone()
        assert row
        return row[0]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is read
        return False


def try_to(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.execute(query.encode())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        yield postgres


def test_data_survive_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2):
        with EmbeddedPostgres(tmp_path), connect(embedded_url(tmp_path)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
            connection.execute("INSERT INTO kept VALUES (1)")
            assert ask(tmp_path, "SELECT count(*) FROM kept") == expected


def test_it_is_durable_and_listens_on_no_network(running: EmbeddedPostgres, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert ask(data_dir, "SHOW fsync") == "on"
    assert ask(data_dir, "SHOW full_page_writes") == "on"
    assert ask(data_dir, "SHOW listen_addresses") == ""
    assert ask(data_dir, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False


def test_the_password_is_asked_for_and_kept_from_others(running: EmbeddedPostgres, tmp_path: Path) -> None:
    url = embedded_url(tmp_path / "data")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(url.set(password="guess"))
    with pytest.raises(psycopg.OperationalError):
        connect(URL.create("postgresql", username="mo", database="mo", query=url.query))
    assert (tmp_path / "data/postgres.password").stat().st_mode & 0o077 == 0
    secret = str(url.password)
    assert secret not in repr(url)
    assert secret not in (tmp_path / "data/log/postgres.log").read_text()
    for pid in (running.process.pid, os.getpid()):
        assert secret not in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_second_start_is_refused(running: EmbeddedPostgres, tmp_path: Path) -> None:
    with pytest.raises(AlreadyRunningError, match="already"):
        EmbeddedPostgres(tmp_path / "data").start()
    assert ask(tmp_path / "data", "SELECT 1") == 1


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="mo-grpc up"):
        embedded_url(tmp_path)


def test_stopping_ends_it_and_says_so(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        pid = postgres.process.pid
    assert not alive(pid)
    with pytest.raises(EmbeddedPostgresError, match="No PostgreSQL runs"):
        embedded_url(tmp_path)


def test_folders_that_are_not_ours_keep_their_modes(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    before = [(p, p.stat().st_mode, p.stat().st_uid) for p in (tmp_path, private)]
    with EmbeddedPostgres(private / "data"):
        assert ask(private / "data", "SELECT 1") == 1
    assert [(p, p.stat().st_mode, p.stat().st_uid) for p in (tmp_path, private)] == before


@pytest.mark.parametrize("name", ["long-" * 40, "a space", "a,comma", "a:colon", "ñ"])
def test_a_path_that_no_socket_can_have_is_no_hindrance(tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / name
    with EmbeddedPostgres(data_dir):
        socket_dir = Path((data_dir / "postgres.socket").read_text())
        assert socket_dir.stat().st_mode & 0o077 == 0
        assert ask(data_dir, "SELECT 1") == 1
    assert not socket_dir.exists()


def test_the_starters_pgport_is_its_own_affair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6000")
    with EmbeddedPostgres(tmp_path):
        monkeypatch.delenv("PGPORT")
        assert ask(tmp_path, "SELECT 1") == 1


def test_it_recovers_from_a_kill(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        with connect(embedded_url(tmp_path)) as connection:
            connection.execute("CREATE TABLE acknowledged (id int)")
        postgres.process.kill()
        postgres.process.wait()
    with EmbeddedPostgres(tmp_path):
        assert ask(tmp_path, "SELECT count(*) FROM acknowledged") == 0


def test_it_waits_for_a_session_that_outlives_a_kill(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres, connect(embedded_url(tmp_path)) as connection:
        session = connection.info.backend_pid
        # Busy, so that it does not notice at once what happened to the others.
        query = "SELECT count(*) FROM generate_series(1, 20000000)"
        client = threading.Thread(target=try_to, args=(connection, query))
        client.start()
        eventually(lambda: Path(f"/proc/{session}/cmdline").read_text().rstrip("\0 ").endswith("SELECT"), 60)
        postgres.process.kill()
        postgres.process.wait()
        assert alive(session)
        postgres.stop()
        with EmbeddedPostgres(tmp_path):
            assert not alive(session)
            assert ask(tmp_path, "SELECT 1") == 1
        client.join()


HOLD = textwrap.dedent("""
    import signal, sys
    from pathlib import Path
    from mo_grpc.db.embedded import EmbeddedPostgres
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    postgres.start()
    print(postgres.process.pid, flush=True)
    signal.pause()
""")


def test_it_ends_with_a_killed_starter_and_starts_again(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        assert alive(pid)
        starter.kill()
    # Started at once, while the old one may still be shutting down.
    with EmbeddedPostgres(tmp_path) as postgres:
        assert not alive(pid)
        assert postgres.process.pid != pid
        assert ask(tmp_path, "SELECT 1") == 1


def test_a_killed_one_is_not_said_to_run(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        assert embedded_url(tmp_path)
        starter.kill()
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), 60)
    assert (tmp_path / "postgres.socket").exists()
    with pytest.raises(EmbeddedPostgresError, match="No PostgreSQL runs"):
        embedded_url(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_end_in_the_middle_of_the_first_start_spoils_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as starter:
        eventually(lambda: bool(list(tmp_path.glob("postgres*/PG_VERSION"))), 60)  # the first file of many
        starter.send_signal(number)
        assert starter.communicate()[0] == b""
    with EmbeddedPostgres(tmp_path):
        assert ask(tmp_path, "SELECT 1") == 1
    # initdb was no child to be waited for; what it still wrote then is gone after the start that finds it.
    eventually(lambda: not _works_in(tmp_path), 60)
    shutil.rmtree(tmp_path / "postgres")
    with EmbeddedPostgres(tmp_path):
        assert not list(tmp_path.glob("*.new"))


def _works_in(folder: Path) -> list[str]:
    """The processes that work somewhere in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(process.name)
    return found


def test_a_failed_start_of_a_copy_leaves_the_original_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    with EmbeddedPostgres(original):
        shutil.copytree(original, copy, ignore=shutil.ignore_patterns(".s.PGSQL.*"))
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(cluster, "find_spec", lambda name: None)
            with pytest.raises(EmbeddedPostgresError, match="not installed"):
                EmbeddedPostgres(copy).start()
        assert ask(original, "SELECT 1") == 1
    with EmbeddedPostgres(original):
        assert ask(original, "SELECT 1") == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot be used"):
        EmbeddedPostgres(tmp_path / "file").start()


@pytest.mark.parametrize("number", ["own", "free", "nonsense"])
def test_a_stale_pid_file_is_no_hindrance(tmp_path: Path, number: str) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        pid_file = tmp_path / "postgres/postmaster.pid"
        lines = pid_file.read_text().splitlines()
        postgres.process.kill()
        postgres.process.wait()
    # The number may belong to another process by now, such as this one.
    lines[0] = {"own": str(os.getpid()), "free": lines[0], "nonsense": "?"}[number]
    pid_file.write_text("\n".join(lines))
    with EmbeddedPostgres(tmp_path):
        assert ask(tmp_path, "SELECT 1") == 1


def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        assert ask(tmp_path, "SELECT 1") == 1
    (tmp_path / "postgres/postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        EmbeddedPostgres(tmp_path).start()
    with pytest.raises(EmbeddedPostgresError):
        embedded_url(tmp_path)
