"""The start of `mo-grpc up`: PostgreSQL, migrations and an API key. The supervisor (`services.py`) does the rest."""

import os
import signal
import socket
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
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
from mo_grpc.db.cluster import TIMEOUT, EmbeddedPostgresError
from mo_grpc.db.embedded import EmbeddedPostgres
from mo_grpc.db.engine import once
from mo_grpc.db.migrate import migrate
from mo_grpc.edge.admin import admin_address
from mo_grpc.errors import ServiceError
from mo_grpc.process.children import AlreadyLockedError, FileLock
from mo_grpc.process.supervisor import become
from mo_grpc.run.scraping import prometheus_file, write_scrape_configuration
from mo_grpc.run.services import SIGNALS, Plan
from mo_grpc.telemetry.traces import require_library

KEY_LIFETIME = timedelta(days=1)
"""The key of a run that was killed, and that no other run follows, ends by itself."""

KEY_NOTE = "up.key"
"""The file in the data folder that names the key of a run."""

_CREATE_CUSTOMER = "mo.customers.v1.CustomerService/CreateCustomer"


class Stop(BaseException):
    """Somebody asked for the end."""


class StartError(Exception):
    """The run cannot start; the message says why."""


def up(settings: Settings) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP, or until it cannot go on.

    Once PostgreSQL is up to date, this process becomes the supervisor (`services.py`); before, this answers the exit status.
    """
    for number in SIGNALS:
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
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _run(settings: Settings, cleanup: ExitStack) -> NoReturn:
    """Start PostgreSQL, migrate, and become the supervisor; `cleanup` is for what goes wrong before."""
    require_library(settings)
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
    for name, port in (("MO_METRICS_PORT", settings.metrics_port), ("MO_EDGE_METRICS_PORT", settings.edge_metrics_port)):
        if port:
            _check_port(name, settings.mo_metrics_host, port)
    if settings.mo_edge_admin_port:
        _check_port("MO_EDGE_ADMIN_PORT", "127.0.0.1", settings.mo_edge_admin_port)
    if settings.mo_http_redirect_port:
        _check_port("MO_HTTP_REDIRECT_PORT", settings.mo_http_host, settings.mo_http_redirect_port)
    plan = Plan(
        logs=str(logs),
        postgres=None,
        postgres_timeout=TIMEOUT,
        leftovers=[],
        key_note=str(data_dir / KEY_NOTE),
        greeting=-1,
        admin=admin_address(settings),
        grace=settings.longest_drain,
    )
    if settings.external_database_url is None:
        postgres = EmbeddedPostgres(data_dir)
        cleanup.callback(postgres.stop)  # before the start, so that no signal comes between them
        postgres.start()
        plan = plan._replace(postgres=postgres.process.pid, leftovers=[str(path) for path in postgres.leftovers])
    migrate(settings)
    if settings.metrics_port:
        write_scrape_configuration(settings)
    forget_owner()
    require_key(settings)
    revoke_key(settings)  # that of a run that was killed
    cleanup.callback(revoke_key, settings)
    become("up", plan._replace(greeting=_readable(greeting(settings, _new_key(settings))))._asdict())


def _readable(text: str) -> int:
    """A descriptor from which this process reads the text after it has become the supervisor; a pipe takes some kilobytes."""
    read_end, write_end = os.pipe()
    os.write(write_end, text.encode())
    os.close(write_end)
    os.set_inheritable(read_end, True)
    return read_end


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


def _new_key(settings: Settings) -> Credential:
    """Make a key with every business scope for this run; its id is noted, so that it is revoked whatever becomes of the run."""
    credential = Credential.generate()
    (settings.mo_data_dir / KEY_NOTE).write_text(credential.id, encoding="ascii")
    command = NewApiKey(credential, "mo-grpc up", frozenset(BUSINESS_SCOPES), datetime.now(UTC) + KEY_LIFETIME)
    once(settings, lambda database: ApiKeyAdministration(database, Vault(settings), operator()).create(command))
    return credential


def revoke_key(settings: Settings) -> None:
    """Revoke the key of a run, if one was made; where the database is away, the next start does."""
    note = settings.mo_data_dir / KEY_NOTE
    if not note.exists():
        return
    key_id = note.read_text(encoding="ascii")
    try:
        once(settings, lambda database: ApiKeyAdministration(database, Vault(settings), operator()).revoke(key_id))
    except (EmbeddedPostgresError, ServiceError, SQLAlchemyError):
        return
    note.unlink()


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
    metrics = ""
    if port := settings.metrics_port:
        address = f"http://{_address(settings.mo_metrics_host, port)}/metrics"
        metrics = f"  Metrics   {address}   for Prometheus: {prometheus_file(settings)}\n"
    customer = '{"external_id": "ana", "score": "1000.00"}'
    return f"""
MO over gRPC is up. Ctrl-C stops it.

  gRPC      {grpc_address}
  REST      {url}
  Swagger   {url}/swagger/   ReDoc {url}/redoc/
  Admin     {url}{settings.admin_url}   an account for it: mo-grpc users create EMAIL --role administrator
{metrics}  data      {settings.mo_data_dir}
  API key   {key}   until this run ends, or for a day

Create a customer over gRPC, then read it over REST:

  grpcurl -plaintext -H '{header}: {key}' -d '{{"customer": {customer}}}' {grpc_address} {_CREATE_CUSTOMER}
  curl -H '{header}: {key}' {url}/v1/customers/ana
"""
