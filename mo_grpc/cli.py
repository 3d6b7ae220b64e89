"""The command line: `mo-grpc up | serve | migrate | edge | import | worker | audit | events | demo | keys | users | tokens`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from mo.imports.v1 import imports_pb2
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from mo_grpc import terminal
from mo_grpc.audit.commands import audit_command
from mo_grpc.auth import store
from mo_grpc.auth.access import ACCESS, ACCOUNT, BASIC, PUBLIC
from mo_grpc.auth.administration import KeyAdministration
from mo_grpc.auth.rules import BUSINESS_SCOPES, OVERLAP, Credential, NewApiKey, Rotation
from mo_grpc.db.embedded import EmbeddedPostgresError
from mo_grpc.db.engine import migration_url, once
from mo_grpc.edge import EdgeError, render
from mo_grpc.edge_process import run
from mo_grpc.errors import ServiceError
from mo_grpc.events.commands import events_command
from mo_grpc.people.commands import users
from mo_grpc.terminal import console as _console
from mo_grpc.terminal import settings as _settings
from mo_grpc.tokens.commands import tokens
from mo_grpc.vault import Vault, VaultError
from mo_grpc.workers import WorkersError, run_workers

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
keys = typer.Typer(no_args_is_help=True, help="API keys: who may call.")
app.add_typer(keys, name="keys")
app.add_typer(users, name="users")
app.add_typer(tokens, name="tokens")
app.command("audit")(audit_command)
app.command("events")(events_command)

T = TypeVar("T")

SCOPES = sorted(set(ACCESS.values()) - {PUBLIC, BASIC, ACCOUNT})


@app.command()
def up() -> None:
    """Run everything: PostgreSQL, migrations, the gRPC server, Envoy. Ctrl-C stops it all."""
    from mo_grpc.up import up

    raise typer.Exit(up(_settings()))


@app.command()
def serve(
    worker: Annotated[int | None, typer.Option(hidden=True, help="Which worker this process is.")] = None,
) -> None:
    """Run the gRPC server alone, with MO_WORKERS processes."""
    settings = _settings()
    if worker is None and settings.mo_workers > 1:
        run_workers(settings)
    else:
        from mo_grpc.server import serve

        serve(settings, worker or 0)


@app.command()
def migrate(
    revision: Annotated[str, typer.Option(help="Where to go: `head`, or an older revision.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back to the revision, losing data.")] = False,
) -> None:
    """Bring the database's schema up to date."""
    from mo_grpc.db.migrate import downgrade, upgrade

    url = migration_url(_settings())
    (downgrade if down else upgrade)(url, revision)


@app.command()
def edge(
    show: Annotated[bool, typer.Option("--print", help="Print Envoy's configuration instead of running it.")] = False,
) -> None:
    """Run Envoy alone, in front of a running gRPC server."""
    settings = _settings()
    if show:
        print(render(settings))
    else:
        raise typer.Exit(run(settings))


@app.command("import")
def import_customers(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="external_id,score[,preapproved_at]")
    ],
    address: Annotated[str | None, typer.Option(help="The gRPC server. Default: MO_GRPC_HOST and MO_GRPC_PORT.")] = None,
) -> None:
    """Import a file of customers, a line each; what is wrong with a line is in FILE.errors.csv. Exit status 1 if any is.

    The key is MO_API_KEY; without one, where the database is at hand, a key of its own that ends with the import.
    """
    from mo_grpc.imports.client import ImportClientError, api_key, import_file, report

    settings = _settings()

    async def run() -> imports_pb2.Import:
        async with api_key(settings) as key:
            metadata = ((settings.api_key_custom_header, key),)
            return await import_file(file, address or settings.grpc_address, metadata, Console(stderr=True))

    try:
        done = asyncio.run(run())
    except ImportClientError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    state = imports_pb2.Import.State.Name(done.state)
    print(
        f"Import {done.id} {state}: {done.created_count:,} created, {done.failed_count:,} wrong of {done.lines_count:,} lines."
    )
    if done.failure:
        print(done.failure)
    if done.failed_count:
        print(f"What is wrong: {report(file)}")
    if done.failed_count or done.state != imports_pb2.Import.SUCCEEDED:
        raise typer.Exit(1)


@app.command()
def worker() -> None:
    """Run a Celery worker that imports files, where USE_CELERY is set."""
    from mo_grpc.imports.celery import work

    work(_settings())


@app.command()
def demo(
    customers: Annotated[int, typer.Option(min=1, max=10_000, help="How many customers it has.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=999_999_999, help="Another seed adds another portfolio.")] = 1,
    until: Annotated[
        datetime | None, typer.Option(help="The day on which its year ends, in UTC. Default: today.", formats=["%Y-%m-%d"])
    ] = None,
) -> None:
    """Fill the database with a year of customers, loans and payments, through the API. A second run creates nothing twice."""
    from mo_grpc.demo.run import DemoError, fill

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    end = until.replace(tzinfo=UTC) if until else today
    if not datetime(2000, 1, 1, tzinfo=UTC) <= end <= today:
        raise typer.BadParameter(f"the year ends from 2000-01-01 to today, {today:%Y-%m-%d}", param_hint="--until")
    try:
        tally, portfolio = fill(_settings(), customers, seed, end)
    except DemoError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(tally)
    Console().print(portfolio.summary(end))
    for tip in portfolio.tips(end):
        print(f"To begin with, {tip}")


def _administer(change: Callable[[KeyAdministration], Awaitable[T]]) -> T:
    settings = _settings()
    return once(settings, lambda database: change(KeyAdministration(database, Vault(settings), terminal.by())))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, in words.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope it gets; may be repeated. Default: all business scopes.")
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(help="When it ends, in UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
    ] = None,
) -> None:
    """Make an API key and print it, alone, on standard output. It is shown this once."""
    unknown = set(scope or ()) - set(SCOPES)
    if unknown:
        raise typer.BadParameter(f"no such scope: {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}")
    if not 1 <= len(name) <= 100:
        raise typer.BadParameter("a name has 1 to 100 characters")
    expires_at = expires.replace(tzinfo=UTC) if expires else None
    command = NewApiKey(Credential.generate(), name, frozenset(scope or BUSINESS_SCOPES), expires_at)
    _administer(lambda administration: administration.create(command))
    print(command.credential)


@keys.command("list")
def list_keys() -> None:
    """List the API keys, without their secrets."""
    table = Table("id", "name", "scopes", "created", "expires", "revoked", "last used")
    for key in once(_settings(), lambda database: database.read(store.list_api_keys)):
        times = (key.created_at, key.expires_at, key.revoked_at, key.last_used_at)
        shown = [f"{time:%Y-%m-%d %H:%M:%S}" if time else "" for time in times]
        table.add_row(key.id, key.name, " ".join(sorted(key.scopes)), *shown)
    _console().print(table)


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id, as `keys list` shows it.")],
    overlap: Annotated[
        int, typer.Option(min=0, max=2_592_000, help="For how many seconds the old key counts still.")
    ] = OVERLAP,
) -> None:
    """Give an API key another secret and print the new key, this once; the old one counts for a day."""
    command = Rotation(Credential.generate()._replace(id=key_id), overlap)
    _administer(lambda administration: administration.rotate(command))
    print(command.credential)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="The id, as `keys list` shows it.")]) -> None:
    """Revoke an API key, for good; every server refuses it within a second."""
    if not _administer(lambda administration: administration.revoke(key_id)):
        print(f"There is no API key {key_id}.", file=sys.stderr)
        raise typer.Exit(1)
    print(f"Revoked {key_id}.")


def main() -> None:
    """Run the command line; a fault that the user can mend is one line on standard error, and exit status 1."""
    try:
        app()
    except (EdgeError, EmbeddedPostgresError, ServiceError, VaultError, WorkersError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except SQLAlchemyError as error:
        print(f"The database refused: {getattr(error, 'orig', None) or error}", file=sys.stderr)
        sys.exit(1)
