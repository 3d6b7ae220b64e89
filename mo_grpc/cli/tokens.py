"""The command line's `tokens`: the keys that sign people's tokens."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# What a command needs of the database is imported when it runs, so that the help is there at once.
tokens = typer.Typer()


@tokens.command("rotate-key")
def rotate_key(
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Refuse at once what the old keys signed, instead of letting it expire.")
    ] = False,
) -> None:
    """Sign with a new key from now on. Tokens signed before count until they expire; sessions go on."""
    from mo_grpc.audit_log.rules import AuditKind, NewAuditEvent, operator
    from mo_grpc.audit_log.store import append
    from mo_grpc.auth.tokens import store
    from mo_grpc.auth.tokens.ring import add_signing_key
    from mo_grpc.cli import terminal
    from mo_grpc.crypto import Vault
    from mo_grpc.db.engine import once

    settings = terminal.settings()
    vault = Vault(settings)
    grace = timedelta(seconds=0 if compromised else settings.token_expired_after_seconds)

    async def work(connection: "AsyncConnection") -> str:
        await store.retire_keys(connection, grace)
        kid = await add_signing_key(connection, vault)
        await append(connection, vault, [NewAuditEvent(AuditKind.SIGNING_KEY_ROTATED, operator(), kid)])
        return kid

    print(f"New tokens are signed with {once(settings, lambda database: database.write(work))}.")
