"""The main job, `mo-grpc up`: PostgreSQL, migrations, both servers and Envoy, watched over until all shall end, or must."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from mo_grpc.audit_log.rules import operator
from mo_grpc.auth.api_keys.administration import ApiKeyAdministration
from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES, Credential, NewApiKey
from mo_grpc.auth.secret_key import require_key
from mo_grpc.config import Settings, forget_owner
from mo_grpc.crypto import Vault
from mo_grpc.db.embedded import EmbeddedPostgres, EmbeddedPostgresError
from mo_grpc.db.engine import once
from mo_grpc.db.migrate import migrate
from mo_grpc.edge.process import Admin
from mo_grpc.errors import ServiceError
from mo_grpc.process.children import PYTHON, AlreadyLockedError, FileLock, spawn, stop, tail
from mo_grpc.run.restarts import Restarts

KEY_LIFETIME = timedelta(days=1)
"""The key of a run that was killed, and that no other run follows, ends by itself."""

PATIENCE = 60.0
"""Seconds that the parts may take until they answer."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CREATE_CUSTOMER = "mo.customers.v1.CustomerService/CreateCustomer"
_MO_GRPC = [*PYTHON, "-m", "mo_grpc"]


class Stop(BaseException):
    """Somebody asked for the end."""


class StartError(Exception):
    """A part did not start, or ended; the message says which and why."""


class Part:
    """A running part, which `start` starts."""

    def __init__(self, name: str, log: Path, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self.name = name
        self.log = log
        self._start = start
        self._restarts = Restarts()
        self._dead = False
        self.start()

    def start(self) -> None:
        """Start it."""
        self._started_at = time.monotonic()
        self.process = self._start()
        self._dead = False

    def end(self) -> str | None:
        """How it ended; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        return f"{self.name} ended " + (f"by signal {-status}" if status < 0 else f"with exit status {status}")

    def revive(self) -> None:
        """Start it again if it has ended, the more often the later."""
        end = self.end()
        if end and not self._dead:
            self._dead = True
            self._restarts.died(time.monotonic() - self._started_at)
            print(f"{end}; it starts again in {self._restarts.pause():.0f} s. See {self.log}.", file=sys.stderr, flush=True)
        if end and self._restarts.due():
            self.start()


def up(settings: Settings) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP, or until it cannot go on; answer the exit status."""
    for number in _SIGNALS:
        signal.signal(number, _on_signal)
    try:
        with ExitStack() as cleanup:
            try:
                _run(settings, cleanup)
            finally:
                _ignore_signals()
    except Stop:
        print("Stopped.", flush=True)
        return 0
    except StartError as error:
        print(error, file=sys.stderr, flush=True)
        return 1


def _on_signal(number: int, frame: FrameType | None) -> NoReturn:
    _ignore_signals()
    raise Stop


def _ignore_signals() -> None:
    """`make` forwards the terminal's Ctrl-C, so a second one is no new wish: nothing aborts the clean-up."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _run(settings: Settings, cleanup: ExitStack) -> NoReturn:
    """Start the parts in order; `cleanup` stops them in the opposite one."""
    data_dir = settings.mo_data_dir.resolve()
    logs = data_dir / "log"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.mkdir(mode=0o700, exist_ok=True)
        _hold(data_dir / "up.lock", settings, cleanup)
    except OSError as error:
        raise StartError(f"MO_DATA_DIR cannot be used: {error}.") from None
    _check_port("MO_GRPC_PORT", settings.mo_grpc_host, settings.mo_grpc_port)
    _check_port("MO_HTTP_PORT", settings.mo_http_host, settings.mo_http_port)
    if settings.mo_edge_admin_port:
        _check_port("MO_EDGE_ADMIN_PORT", "127.0.0.1", settings.mo_edge_admin_port)
    if settings.mo_http_redirect_port:
        _check_port("MO_HTTP_REDIRECT_PORT", settings.mo_http_host, settings.mo_http_redirect_port)
    parts: list[Part] = []
    if settings.external_database_url is None:
        postgres = EmbeddedPostgres(data_dir)
        cleanup.callback(postgres.stop)  # before the start, so that no signal comes between them
        postgres.start()
        parts.append(Part("PostgreSQL", logs / "postgres.log", lambda: postgres.process))
    migrate(settings)
    forget_owner()
    require_key(settings)
    note = data_dir / "up.key"
    _revoke(settings, note)  # that of a run that was killed
    for name, command in (("The gRPC server", "serve"), ("The web server", "web"), ("Envoy", "edge")):
        log = logs / f"{command}.log"
        part = Part(name, log, partial(spawn, [*_MO_GRPC, command], log))
        cleanup.callback(_stop, part, settings)
        parts.append(part)
    _wait_until_ready(settings, parts)
    cleanup.callback(_revoke, settings, note)
    print(greeting(settings, _new_key(settings, note)), flush=True)
    *needed, web, edge = parts
    while True:
        # The gRPC server starts its workers again by itself, and ends only when that helps nobody.
        _check(needed)
        for part in (web, edge):
            part.revive()
        time.sleep(0.2)


def _stop(part: Part, settings: Settings) -> None:
    stop(part.process, signal.SIGTERM, settings.mo_shutdown_grace_seconds + 10)


def _hold(path: Path, settings: Settings, cleanup: ExitStack) -> None:
    lock = FileLock(path)
    try:
        lock.acquire()
    except AlreadyLockedError:
        raise StartError(f"It is running already: {_addresses(settings)}, data in {settings.mo_data_dir}.") from None
    cleanup.callback(lock.release)


def _check_port(setting: str, host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"Port {port} of {host} cannot be used ({error.strerror}); set {setting} to another.") from None


def _new_key(settings: Settings, note: Path) -> Credential:
    """Make a key with every business scope for this run; its id is noted, so that it is revoked whatever becomes of the run."""
    credential = Credential.generate()
    note.write_text(credential.id, encoding="ascii")
    command = NewApiKey(credential, "mo-grpc up", frozenset(BUSINESS_SCOPES), datetime.now(UTC) + KEY_LIFETIME)
    once(settings, lambda database: ApiKeyAdministration(database, Vault(settings), operator()).create(command))
    return credential


def _revoke(settings: Settings, note: Path) -> None:
    """Revoke the key that was noted, if one was; where the database is away, the next start does."""
    if not note.exists():
        return
    key_id = note.read_text(encoding="ascii")
    try:
        once(settings, lambda database: ApiKeyAdministration(database, Vault(settings), operator()).revoke(key_id))
    except (EmbeddedPostgresError, ServiceError, SQLAlchemyError):
        return
    note.unlink()


def _check(parts: list[Part]) -> None:
    for part in parts:
        if end := part.end():
            raise StartError(f"{end}, so all stops. The end of {part.log}:\n{tail(part.log)}")


def _wait_until_ready(settings: Settings, parts: list[Part]) -> None:
    """Wait for Envoy, which is ready when it finds the gRPC server healthy."""
    deadline = time.monotonic() + PATIENCE
    admin = Admin(settings)
    while not admin.ready():
        _check(parts)
        if time.monotonic() > deadline:
            raise StartError(f"Not ready after {PATIENCE:.0f} seconds; see the logs in {settings.mo_data_dir}/log.")
        time.sleep(0.05)


def _reachable(host: str) -> str:
    """An address at which a listener on `host` is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound to


def _address(host: str, port: int) -> str:
    """What to call to reach a listener on `host`; an IPv6 number needs brackets."""
    host = _reachable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(settings: Settings) -> str:
    return f"{'https' if settings.tls else 'http'}://{_address(settings.mo_http_host, settings.mo_http_port)}"


def _addresses(settings: Settings) -> str:
    return f"gRPC on {_address(settings.mo_grpc_host, settings.mo_grpc_port)}, REST on {_url(settings)}"


def greeting(settings: Settings, key: Credential) -> str:
    """What the newcomer reads: where it runs, a key, and two lines to paste."""
    grpc_address = _address(settings.mo_grpc_host, settings.mo_grpc_port)
    url = _url(settings)
    header = settings.api_key_custom_header
    customer = '{"external_id": "ana", "score": "1000.00"}'
    return f"""
MO over gRPC is up. Ctrl-C stops it.

  gRPC      {grpc_address}
  REST      {url}
  Swagger   {url}/swagger/   ReDoc {url}/redoc/
  Admin     {url}{settings.admin_url}   an account for it: mo-grpc users create EMAIL --role administrator
  data      {settings.mo_data_dir}
  API key   {key}   until this run ends, or for a day

Create a customer over gRPC, then read it over REST:

  grpcurl -plaintext -H '{header}: {key}' -d '{{"customer": {customer}}}' {grpc_address} {_CREATE_CUSTOMER}
  curl -H '{header}: {key}' {url}/v1/customers/ana
"""
