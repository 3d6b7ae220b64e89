"""Errors of the database, as sentences for the person who runs a command."""

from collections.abc import Iterator

import psycopg

_MIGRATE = "The database's schema is not the one of this version: run `mo-grpc migrate`"
_LOCKED = "Another session holds a lock that this command needs; the view pg_locks shows which. Nothing was changed: try again"

LOCK_NOT_AVAILABLE = "55P03"

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SENTENCES = {
    "25006": "The database is read-only, as a standby is: use the address of the primary",
    "42P01": _MIGRATE,
    "42703": _MIGRATE,
    "42883": _MIGRATE,
    "42501": "The database does not let this login do it. If its schema is of another version, run `mo-grpc migrate`",
    LOCK_NOT_AVAILABLE: _LOCKED,
    "57014": _LOCKED,
}


class MigrationError(Exception):
    """The schema cannot be migrated; the message says why."""


def explain(error: BaseException) -> str | None:
    """A sentence about an error of PostgreSQL or of the connection to it; None if the database is not the cause."""
    found = next(_causes(error), None)
    if found is None:
        return None
    text = str(found).strip().partition("\n")[0]
    if found.sqlstate in _SENTENCES:
        return f"{_SENTENCES[found.sqlstate]} ({text})."
    if found.sqlstate is None:
        # A session cannot start as a role that does not exist; psycopg has no error code for a failed connection.
        sentence = _MIGRATE if 'role "mo_service"' in str(found) else "The database cannot be reached"
        return f"{sentence}: {' '.join(str(found).split())}"
    return f"The database refused: {text}"


def _causes(error: BaseException | None) -> Iterator[psycopg.Error]:
    """The driver's errors behind an error: SQLAlchemy has them in `orig`, this package in `__cause__`."""
    while error is not None:
        original = getattr(error, "orig", error)
        if isinstance(original, psycopg.Error):
            yield original
        error = error.__cause__
