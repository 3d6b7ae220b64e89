"""What the commands share: the settings, or a line on each that is wrong, and a console."""

import sys

import structlog
import typer
from pydantic import ValidationError
from rich.console import Console

from mo_grpc import logs
from mo_grpc.config import OWNERS_SECRETS, Settings, forget_owner, unknown_names

log = structlog.get_logger()


def settings(*, serving: bool = False) -> Settings:
    """Read the settings and set up the logs; warn of names that are no settings, end with exit status 2 if a value is wrong.

    A process that is `serving` uses nothing of the schema's owner, and warns where it was given that.
    """
    try:
        found = Settings()
    except ValidationError as error:
        for problem in error.errors():
            # What is wrong with two settings together names them itself.
            print(*[f"{str(name).upper()}:" for name in problem["loc"][:1]], problem["msg"], file=sys.stderr)
        raise typer.Exit(2) from None
    logs.configure(found.mo_log_level, found.mo_log_format)
    for name, nearest in unknown_names().items():
        hint = f", do you mean {nearest}?" if nearest else "; env.example lists all settings."
        log.warning(f"{name} is no setting{hint}", name=name)
    if not serving:
        return found
    forget_owner()
    for name in OWNERS_SECRETS:
        if getattr(found, name) and found.external_database_url:
            log.warning(f"{name.upper()} is the schema's owner's: give it to `mo-grpc migrate` alone, not to what serves")
    return found.model_copy(update=dict.fromkeys(OWNERS_SECRETS))


def console() -> Console:
    """Standard output; where it is no terminal, lines are not folded, however many scopes or customers a key has."""
    return Console(width=None if sys.stdout.isatty() else 10_000)
