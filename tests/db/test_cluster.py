"""Who may run the embedded PostgreSQL: an ordinary user as itself, and root as somebody else."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from mo_grpc.db import cluster
from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url

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


def start(data_dir: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", START, str(data_dir)]
    return subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True)


def test_where_namespaces_are_switched_off_root_lends_it_another_user(tmp_path: Path) -> None:
    no_namespaces = {"PATH": str(tmp_path)}  # no `unshare` there
    done = start(tmp_path, **no_namespaces)
    files = (tmp_path / "postgres").resolve()
    programs = Path(cluster.__file__).parents  # PostgreSQL's are in the same tree
    if os.geteuid() != 0:
        assert done.stdout.split() == [str(os.geteuid())] * 2, done.stderr
    elif all(path.stat().st_mode & 0o001 for path in programs):
        try:
            assert not files.is_relative_to(tmp_path)
            first = (files / "global/pg_control").stat().st_ino
            # The files stay whose they are, with namespaces or without.
            for again in (done, start(tmp_path), start(tmp_path, **no_namespaces)):
                starter, postgres = map(int, again.stdout.split())
                assert starter == 0 != postgres == files.stat().st_uid, again.stderr
                assert (files / "global/pg_control").stat().st_ino == first
        finally:
            shutil.rmtree(files)
    else:
        # The other user cannot reach the programs; then the message says so.
        assert done.returncode == 1
        assert "EmbeddedPostgresError" in done.stderr
        assert "Permission denied" in done.stderr


def test_roots_own_files_are_not_forsaken_without_namespaces(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        password = embedded_url(tmp_path).password
    done = start(tmp_path, PATH=str(tmp_path))
    if os.geteuid() == 0:
        assert done.returncode == 1
        assert "PostgreSQL refuses root" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    with EmbeddedPostgres(tmp_path):
        assert embedded_url(tmp_path).password == password
