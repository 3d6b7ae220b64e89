"""What the tables of every domain share."""

from sqlalchemy import CheckConstraint, MetaData
from sqlalchemy.orm import DeclarativeBase

from mo_grpc.formats import EXTERNAL_ID, EXTERNAL_ID_LENGTH


class Base(DeclarativeBase):
    """The declarative base; constraints are named by one convention, because errors are mapped by their names."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )


def is_external_id(column: str) -> str:
    """The condition, in SQL, that a text has the format of an `external_id` (docs/rules.md, R4)."""
    # An unbounded repetition beside length(): a bounded one is many times slower in PostgreSQL.
    return f"{column} ~ '{EXTERNAL_ID}' AND length({column}) <= {EXTERNAL_ID_LENGTH}"


def external_id_check() -> CheckConstraint:
    """The constraint of a table whose rows have an `external_id`."""
    return CheckConstraint(is_external_id("external_id"), "external_id")
