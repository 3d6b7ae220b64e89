"""The tables of imports, and of what was wrong with their files."""

from datetime import datetime

from mo.imports.v1.imports_pb2 import ImportError as Reason
from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base
from mo_grpc.imports.rules import State


class Import(Base):
    """The import of one file: the truth about how far it is, whoever runs it."""

    __tablename__ = "imports"
    __table_args__ = (
        CheckConstraint("length(source) BETWEEN 1 AND 1024", "source"),
        CheckConstraint("length(file_name) <= 255", "file_name"),
        CheckConstraint(f"state BETWEEN {State.PENDING} AND {State.CANCELLED}", "state"),
        CheckConstraint("lines_count = created_count + failed_count", "counts"),
        CheckConstraint("bytes_done BETWEEN 0 AND bytes_total", "bytes"),
        CheckConstraint(
            f"(state IN ({State.SUCCEEDED}, {State.FAILED}, {State.CANCELLED})) = (finished_at IS NOT NULL)", "finished_at"
        ),
        CheckConstraint(f"(state = {State.FAILED}) = (failure <> '')", "failure"),
        # For whoever looks for work.
        Index("imports_open_idx", "id", postgresql_where=text(f"state IN ({State.PENDING}, {State.RUNNING})")),
        # For whoever looks for uploads that have no import.
        Index("imports_source_idx", "source"),
        # For whoever removes the errors of old ones.
        Index(
            "imports_with_errors_idx",
            "finished_at",
            postgresql_where=text("failed_count > 0 AND errors_removed_at IS NULL"),
        ),
        Index("imports_errors_removed_at_idx", "errors_removed_at", postgresql_where=text("errors_removed_at IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    state: Mapped[int] = mapped_column(SmallInteger, server_default=text(str(State.PENDING)))
    lines_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failed_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    # The cursor: how many bytes, and lines of any kind, are done.
    bytes_done: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bytes_total: Mapped[int] = mapped_column(BigInteger)
    line_number: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    started_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    failure: Mapped[str] = mapped_column(Text, server_default=text("''"))
    file_name: Mapped[str] = mapped_column(Text, server_default=text("''"))
    # What its first line told of the others (`imports.layout`); NULL until that is read.
    layout: Mapped[str | None] = mapped_column(Text)
    # Who runs it, and until when nobody else may.
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # When its errors had been kept for long enough.
    errors_removed_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class LineError(Base):
    """What was wrong with one line."""

    __tablename__ = "import_errors"
    __table_args__ = (
        CheckConstraint(f"reason BETWEEN {Reason.MALFORMED_LINE} AND {Reason.CUSTOMER_ALREADY_EXISTS}", "reason"),
    )

    import_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("imports.id"), primary_key=True)
    line_number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    external_id: Mapped[str] = mapped_column(Text)
    field: Mapped[str] = mapped_column(Text)
    reason: Mapped[int] = mapped_column(SmallInteger)
    message: Mapped[str] = mapped_column(Text)
