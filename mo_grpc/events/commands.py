"""The command line's `events`."""

from typing import Annotated

import typer
from rich.table import Table

from mo_grpc import terminal
from mo_grpc.db.engine import once
from mo_grpc.events.rules import Stream
from mo_grpc.events.store import list_events


def events_command(
    stream: Annotated[Stream, typer.Argument(help="What is of interest.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, at most.")] = 50,
) -> None:
    """Show the record, newest first: logins, changes of keys and people, or refused calls."""
    table = Table("number", "at", "what", "who", "address", "to what", "more")
    found = once(terminal.settings(), lambda database: database.read(lambda c: list_events(c, stream, None, limit)))
    for event in found:
        more = ", ".join(f"{name} {value}" for name, value in sorted(event.data.items()))
        moment = f"{event.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(str(event.number), moment, event.kind, event.actor, event.address, event.subject, more)
    terminal.console().print(table)
