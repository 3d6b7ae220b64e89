"""The command line: `mo-grpc up | demo | import | keys | users | tokens | audit | events`, and each part alone."""

import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mo_grpc.audit_log.rules import Stream

if TYPE_CHECKING:
    from mo.imports.v1.imports_pb2 import Import

    from mo_grpc.config import Settings

# What a command needs is imported when it runs, so that the help is there at once.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def _add_group(name: str, module: str, text: str) -> None:
    """Add a group whose commands are those of the Typer `name` in a module, which is imported when one is asked for."""

    class Group(TyperGroup):
        @property
        def commands(self) -> MutableMapping[str, Any]:
            return typer.main.get_group(getattr(import_module(module), name)).commands

        @commands.setter
        def commands(self, _: MutableMapping[str, Any]) -> None:
            pass

    app.add_typer(typer.Typer(cls=Group, no_args_is_help=True), name=name, help=text)


_add_group("keys", "mo_grpc.cli.keys", "API keys: who may call.")
_add_group("users", "mo_grpc.cli.users", "People: who may log in.")
_add_group("tokens", "mo_grpc.cli.tokens", "People's tokens: the keys that sign them.")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"mo-grpc {version('mo-grpc')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take what stands before a command."""


def _settings(*, serving: bool = False) -> "Settings":
    from mo_grpc.cli.terminal import settings

    return settings(serving=serving)


def _with_key() -> "Settings":
    """The settings of what serves, and reads the database's secrets."""
    from mo_grpc.auth.secret_key import require_key

    settings = _settings(serving=True)
    require_key(settings)
    return settings


_KNOWN = "The end of a stream as an earlier audit printed it: that event must still be there. May be repeated."


_AUDIT_METRICS = "Write what was found for Prometheus, as a text file; one in MO_DATA_DIR/metrics is scraped with the service."

_EVERY = "Audit for ever, with such a pause, and answer at MO_METRICS_PORT what was found."


@app.command()
def audit(
    known: Annotated[list[str] | None, typer.Option(metavar="STREAM:NUMBER:SEAL", help=_KNOWN)] = None,
    metrics: Annotated[Path | None, typer.Option(metavar="FILE.prom", help=_AUDIT_METRICS)] = None,
    every: Annotated[float | None, typer.Option(min=0, metavar="HOURS", help=_EVERY)] = None,
) -> None:
    """Check that all amounts add up and that the audit log is complete. Other work goes on meanwhile.

    Exit status 1 if something is wrong, and 2 if it could not be checked.
    """
    from mo_grpc.cli.audit import run, run_for_ever

    if every is None:
        run(known or [], metrics)
    else:
        run_for_ever(every)


@app.command()
def events(
    stream: Annotated[Stream, typer.Argument(help="What is of interest.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, at most.")] = 50,
) -> None:
    """Show the audit log, newest first: logins, changes of keys and people, or refused calls."""
    from mo_grpc.cli.audit_log import show

    show(stream, limit)


@app.command()
def up(
    revoke_key: Annotated[bool, typer.Option("--revoke-key", hidden=True, help="Only revoke the key of a run.")] = False,
) -> None:
    """Run everything: PostgreSQL, migrations, the gRPC and web servers, Envoy. Ctrl-C stops it all."""
    from mo_grpc.run import up

    if revoke_key:
        up.revoke_key(_settings())
    else:
        raise typer.Exit(up.up(_settings()))


@app.command()
def serve(
    worker: Annotated[int | None, typer.Option(hidden=True, help="Run one worker, at this private socket.")] = None,
    supervisor: Annotated[int | None, typer.Option(hidden=True, help="The descriptor of the pipe to the supervisor.")] = None,
) -> None:
    """Run the gRPC server alone, with MO_WORKERS processes and a supervisor."""
    if worker is None:
        from mo_grpc.run.workers import run_workers

        run_workers(_with_key())
    else:
        from mo_grpc.server.serve import serve

        serve(_settings(serving=True), worker, supervisor)


@app.command()
def migrate(
    revision: Annotated[str, typer.Option(help="Where to go: `head`, or an older revision.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back to the revision, losing data.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be done.")] = False,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to try to get the locks.")] = 600,
) -> None:
    """Bring the database's schema up to date. Calls go on meanwhile: for a lock it waits half a second, again and again."""
    from mo_grpc.db import migrate
    from mo_grpc.db.engine import migration_url

    settings = _settings()
    if plan:
        print(migrate.plan(migration_url(settings), revision), end="")
    elif down:
        migrate.downgrade(migration_url(settings), revision)
    else:
        migrate.migrate(settings, revision, wait)


@app.command()
def web() -> None:
    """Run the web server alone: the admin, Swagger, ReDoc, and the honeypot at ADMIN_HONEYPOT_URL."""
    from mo_grpc.web.serve import serve

    serve(_with_key())


@app.command()
def edge(
    show: Annotated[bool, typer.Option("--print", help="Print Envoy's configuration instead of running it.")] = False,
) -> None:
    """Run Envoy alone, in front of a running gRPC server."""
    settings = _settings(serving=True)
    if show:
        from mo_grpc.edge.configuration import render

        print(render(settings))
    else:
        from mo_grpc.edge.process import run

        run(settings)


@app.command("import")
def import_customers(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="external_id,score[,preapproved_at]")
    ],
    address: Annotated[str | None, typer.Option(help="The gRPC server. Default: MO_GRPC_HOST and MO_GRPC_PORT.")] = None,
) -> None:
    """Import a file of customers, a line each; what is wrong with a line is in FILE.errors.csv.

    Exit status 1 if any line is wrong, or nothing was created.

    The key is MO_API_KEY; without one, where the database is at hand, a key of its own that ends with the import.
    """
    import asyncio

    from mo.imports.v1 import imports_pb2
    from rich.console import Console

    from mo_grpc.cli.imports import ImportClientError, api_key, import_file, report

    settings = _settings()

    async def run() -> "Import":
        async with api_key(settings) as key:
            metadata = ((settings.api_key_custom_header, key),)
            return await import_file(file, address or settings.grpc_address, metadata, Console(stderr=True))

    try:
        done = asyncio.run(run())
    except ImportClientError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    state = imports_pb2.Import.State.Name(done.state)
    counts = f"{done.created_count:,} created, {done.failed_count:,} wrong of {done.lines_count:,} lines"
    print(f"Import {done.id} of {done.file_name} {state}: {counts}.")
    if done.failure:
        print(done.failure)
    if done.failed_count:
        print(f"What is wrong: {report(file)}")
    if not done.created_count:
        print("Nothing was created.")
    if done.failed_count or not done.created_count or done.state != imports_pb2.Import.SUCCEEDED:
        raise typer.Exit(1)


@app.command()
def worker() -> None:
    """Run a Celery worker that imports files and sends events to webhooks, where USE_CELERY is set."""
    from mo_grpc.imports.celery import work
    from mo_grpc.webhooks.worker import send_in_background

    settings = _with_key()
    send_in_background(settings)
    work(settings)


@app.command()
def demo(
    customers: Annotated[int, typer.Option(min=1, max=10_000, help="How many customers it has.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=999_999_999, help="Another seed adds another portfolio.")] = 1,
    until: Annotated[
        datetime | None, typer.Option(help="The day on which its year ends, in UTC. Default: today.", formats=["%Y-%m-%d"])
    ] = None,
) -> None:
    """Fill the database with a year of customers, loans and payments, through the API. A second run creates nothing twice."""
    from rich.console import Console

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


def main() -> None:
    """Run the command line; an error that the user can fix is one line on standard error, and exit status 1."""
    try:
        app()
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        sys.exit(1)


# The extra that brings a module which is not always there.
_EXTRAS = {"boto3": "s3", "celery": "celery", "kombu": "celery", "opentelemetry": "traces"}


def _sentence(error: Exception) -> str | None:
    """What to tell the user of an error that the user can fix; None for a fault of the program."""
    import psycopg
    from sqlalchemy.exc import SQLAlchemyError

    from mo_grpc.crypto import VaultError
    from mo_grpc.db.cluster import EmbeddedPostgresError
    from mo_grpc.db.locks import LockedError
    from mo_grpc.db.sentences import MigrationError, explain
    from mo_grpc.edge.configuration import EdgeError
    from mo_grpc.errors import ServiceError
    from mo_grpc.process.sockets import WorkersError
    from mo_grpc.telemetry.metrics import MetricsError

    if isinstance(error, EdgeError | EmbeddedPostgresError | MetricsError | MigrationError | VaultError | WorkersError):
        return str(error)
    if isinstance(error, LockedError | ServiceError | SQLAlchemyError | psycopg.Error):
        return explain(error) or str(error)
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in _EXTRAS:
        return f"{package} is not installed: `pip install 'mo-grpc[{_EXTRAS[package]}]'` brings it."
    return None
