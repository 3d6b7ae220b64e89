"""A real PostgreSQL from a wheel, to try and to test: no Docker, no root, no system service.

Its files live in `<data dir>/postgres`. It listens only on a Unix socket, has a generated password, keeps fsync on, and ends
with the process that started it; on Linux, with the thread that called `start`.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.config import DRIVER
from mo_grpc.db.cluster import (
    TIMEOUT,
    AlreadyRunningError,
    EmbeddedPostgresError,
    make_cluster,
    programs,
    wait_for_survivors,
    whoever_may_run,
)
from mo_grpc.private_files import write_private
from mo_grpc.process.children import AlreadyLockedError, FileLock, spawn, stop, tail

ROLE = DATABASE = "mo"

SERVICE_ROLE = "mo_service"
"""The service's role; the first migration creates it, and it cannot rewrite history."""

_PORT = 5432  # part of the socket's name; set explicitly, because PGPORT would choose another
_SOCKET = f".s.PGSQL.{_PORT}"
# The kernel's limit is 108 bytes, or 104. Commas separate PostgreSQL's folders, colons separate SQLAlchemy's hosts, and libpq's
# URLs have no spaces, so a socket's path cannot have any of these.
_SOCKET_PATH = re.compile(r"[\w./~+@%-]{1,98}", re.ASCII)
_SETTINGS = {
    "port": str(_PORT),
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "password_encryption": "scram-sha-256",
    # No details of errors in the log, which are what was in a row.
    "log_error_verbosity": "terse",
}


def embedded_url(data_dir: Path, role: str = ROLE) -> URL:
    """Where the PostgreSQL of a data folder listens, for the role that owns the schema, or another.

    Raises:
        EmbeddedPostgresError: none runs there, or it is another user's.
    """
    try:
        url = _url(data_dir.resolve(), role)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(f"{url.query['host']}/{_SOCKET}")
    except PermissionError as error:
        raise EmbeddedPostgresError(f"The PostgreSQL in {data_dir} is another user's ({error}).") from None
    except OSError:
        raise EmbeddedPostgresError(
            f"No PostgreSQL runs in {data_dir}. Start one with `mo-grpc up`, or set MO_DATABASE_URL to use another."
        ) from None
    return url


def _url(home: Path, role: str) -> URL:
    """The URL of the last start, whether PostgreSQL answers or not."""
    socket_dir = (home / "postgres.socket").read_text()
    password = _password_file(home, role).read_text()
    return URL.create(DRIVER, username=role, password=password, port=_PORT, database=DATABASE, query={"host": socket_dir})


def _password_file(home: Path, role: str) -> Path:
    """The file of a role's password: each has its own, so that servers know neither the owner's nor the superuser's."""
    return home / f"{role}.password"


class EmbeddedPostgres:
    """The PostgreSQL of one data folder; also a context manager. `process` is PostgreSQL's own."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.resolve()
        self._log = self._home / "log" / "postgres.log"
        self._lock = FileLock(self._home / "postgres.lock")
        self._cleanup = ExitStack()
        self.leftovers: list[Path] = []
        """What is to be removed after PostgreSQL has ended, if this process is replaced (exec); `stop` does it by itself."""

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
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._log.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock.acquire()
        except AlreadyLockedError:
            raise AlreadyRunningError(f"PostgreSQL runs in {self._home} already.") from None
        except OSError as error:
            raise EmbeddedPostgresError(f"The data folder cannot be used: {error}.") from None
        # Only what this object made is removed again: files that it finds may be a copy of another folder, and name that one.
        self._cleanup.callback(self._lock.release)
        try:
            self._run(self._prepare())
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut PostgreSQL down: sessions are ended, what is committed is kept. Nothing happens if it is not running."""
        self._cleanup.close()

    def _prepare(self) -> Path:
        """Make PostgreSQL's files, with the superuser's password, if they are missing; return where they are."""
        link = self._home / "postgres"
        if not link.is_dir():
            try:
                make_cluster(self._home, link, _password_file(self._home, "postgres"))
            except (OSError, subprocess.SubprocessError) as error:
                reason = getattr(error, "stderr", None) or str(error)
                raise EmbeddedPostgresError(f"PostgreSQL's files could not be made: {reason.strip()}") from None
        cluster = link.resolve()
        wait_for_survivors(cluster)
        return cluster

    def _run(self, cluster: Path) -> None:
        prefix, user = whoever_may_run(cluster)
        socket_dir = cluster
        if not _SOCKET_PATH.fullmatch(f"{cluster}/{_SOCKET}.lock"):
            socket_dir = Path(tempfile.mkdtemp(prefix="mo-grpc-"))
            self._cleanup.callback(shutil.rmtree, socket_dir, ignore_errors=True)
            self.leftovers.append(socket_dir)
            if user:
                os.chown(socket_dir, *user)
        where = self._home / "postgres.socket"
        write_private(where, str(socket_dir))
        self._cleanup.callback(where.unlink, missing_ok=True)
        self.leftovers.append(where)
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        command = [*prefix, str(programs() / "postgres"), "-D", str(cluster), "-k", str(socket_dir), *settings]
        # SIGINT is PostgreSQL's fast shutdown.
        self.process = spawn(command, self._log, dies_with=signal.SIGINT, cwd=cluster, user=user)
        self._cleanup.callback(stop, self.process, signal.SIGINT, TIMEOUT)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + TIMEOUT
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
        """Make the role that owns the schema, no superuser, and its database; it also lets the service's role in."""
        for role in (ROLE, SERVICE_ROLE):  # an older version had no passwords for them
            if not _password_file(self._home, role).exists():
                write_private(_password_file(self._home, role), secrets.token_urlsafe(24))
        url = _url(self._home, "postgres").set(drivername="postgresql", database="postgres")
        conninfo: dict[str, Any] = url.translate_connect_args(username="user", database="dbname") | dict(url.query)
        with psycopg.connect(**conninfo, autocommit=True, connect_timeout=5) as connection:  # noqa: TID251 - of `db`
            if connection.execute("SELECT 1 WHERE pg_is_in_recovery()").fetchone():
                return  # a standby has what its primary has
            name = sql.Identifier(ROLE)
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone()
            # A verifier instead of the password, because PostgreSQL logs the text of a failed statement.
            password = _password_file(self._home, ROLE).read_bytes()
            secret = connection.pgconn.encrypt_password(password, ROLE.encode(), b"scram-sha-256")
            make = sql.SQL("{} ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}")
            verb = sql.SQL("ALTER" if exists else "CREATE")
            connection.execute(make.format(verb, name, sql.Literal(secret.decode())))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), name))
