"""The command line's `events`."""

from rich.table import Table

from mo_grpc.audit_log.rules import Stream
from mo_grpc.audit_log.store import list_events
from mo_grpc.cli import terminal
from mo_grpc.db.engine import once


def show(stream: Stream, limit: int) -> None:
    """Print the newest events of a stream."""
    table = Table("number", "at", "what", "who", "address", "to what", "more")
    found = once(terminal.settings(), lambda database: database.read(lambda c: list_events(c, stream, None, limit)))
    for event in found:
        more = ", ".join(f"{name} {value}" for name, value in sorted(event.data.items()))
        moment = f"{event.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(str(event.number), moment, event.kind, event.actor, event.address, event.subject, more)
    terminal.console().print(table)
