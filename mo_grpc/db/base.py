"""What the tables of every domain share."""

from sqlalchemy import CheckConstraint, MetaData
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The declarative base; constraints are named alike everywhere, because errors are mapped by those names."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )


def external_id_check() -> CheckConstraint:
    """The format of an `external_id` (docs/rules.md, R4); the same rule for the wire is in `mo/rules/v1/rules.proto`."""
    # An unbounded repetition beside length(): a bounded one is many times slower in PostgreSQL.
    return CheckConstraint("external_id ~ '^[A-Za-z0-9][A-Za-z0-9._~-]*$' AND length(external_id) <= 60", "external_id")
