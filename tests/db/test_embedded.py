import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from mo_grpc.db import embedded
from mo_grpc.db.embedded import AlreadyRunningError, EmbeddedPostgres, EmbeddedPostgresError, embedded_url


def connect(url: URL) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True)


def ask(data_dir: Path, query: str) -> object:
    with connect(embedded_url(data_dir)) as connection:
        row = connection.execute(query).fetchone()
        assert row
        return row[0]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return False


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
    with pytest.raises(EmbeddedPostgresError, match="make up"):
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


def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long-" * 20) / ("longer-" * 20)
    with EmbeddedPostgres(data_dir):
        socket_dir = Path((data_dir / "postgres.socket").read_text())
        assert socket_dir.stat().st_mode & 0o077 == 0
        assert ask(data_dir, "SELECT 1") == 1
    assert not socket_dir.exists()


def test_it_recovers_from_a_kill(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        with connect(embedded_url(tmp_path)) as connection:
            connection.execute("CREATE TABLE acknowledged (id int)")
        postgres.process.kill()
        postgres.process.wait()
    with EmbeddedPostgres(tmp_path):
        assert ask(tmp_path, "SELECT count(*) FROM acknowledged") == 0


def test_it_ends_with_a_killed_starter_and_starts_again(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import signal, sys
        from pathlib import Path
        from mo_grpc.db.embedded import EmbeddedPostgres
        postgres = EmbeddedPostgres(Path(sys.argv[1]))
        postgres.start()
        print(postgres.process.pid, flush=True)
        signal.pause()
    """)
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        assert alive(pid)
        starter.kill()
    # Started at once, while the old one may still be shutting down.
    with EmbeddedPostgres(tmp_path) as postgres:
        assert not alive(pid)
        assert postgres.process.pid != pid
        assert ask(tmp_path, "SELECT 1") == 1


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


START = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from mo_grpc.db.embedded import EmbeddedPostgres
    with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
        print(os.geteuid(), Path(f"/proc/{postgres.process.pid}").stat().st_uid)
""")


def test_an_ordinary_user_runs_it_as_itself(tmp_path: Path) -> None:
    # In a user namespace of its own, root is an ordinary user too.
    prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=True)
    starter, postgres = map(int, done.stdout.split())
    assert starter == postgres != 0


def test_where_namespaces_are_switched_off_root_lends_it_another_user(tmp_path: Path) -> None:
    # Without `unshare` on PATH there are no namespaces to be had.
    environment = dict(os.environ, PATH=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)], env=environment, check=False, capture_output=True, text=True
    )
    for folder in Path("/var/lib/mo-grpc").glob("*"):
        shutil.rmtree(folder)
    programs = Path(embedded.__file__).parents  # PostgreSQL's are in the same tree
    if all(path.stat().st_mode & 0o001 for path in programs):
        starter, postgres = map(int, done.stdout.split())
        assert (starter == 0) == (postgres != starter)
    else:
        # The other user cannot reach the programs; then the message says so.
        assert (done.returncode == 0) == (os.geteuid() != 0)
        assert os.geteuid() != 0 or "Permission denied" in done.stderr
