"""The tables of the audit log."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, LargeBinary, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base


class AuditEvent(Base):
    """Something that happened. The seal of each is made over the one before, too, so that none can be changed alone."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("number > 0", "number"),
        CheckConstraint("length(seal) = 32", "seal"),
    )

    stream: Mapped[str] = mapped_column(ForeignKey("event_streams.name"), primary_key=True)
    # Without gaps within a stream.
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    kind: Mapped[str] = mapped_column(Text(collation="C"))
    # An API key's id, `user-5`, or `cli:` and who ran the command; empty where nobody knows.
    actor: Mapped[str] = mapped_column(Text)
    # What it happened to: an e-mail, a key's id, an RPC.
    subject: Mapped[str] = mapped_column(Text)
    address: Mapped[str] = mapped_column(Text(collation="C"))
    data: Mapped[dict[str, str]] = mapped_column(JSONB)
    sealed_by: Mapped[str] = mapped_column(Text(collation="C"))
    seal: Mapped[bytes] = mapped_column(LargeBinary)


class EventStream(Base):
    """Where a stream of events ends; locked by whoever appends to it."""

    __tablename__ = "event_streams"
    __table_args__ = (
        CheckConstraint("last_number >= 0", "last_number"),
        CheckConstraint("length(last_seal) = 32", "last_seal"),
    )

    name: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    last_number: Mapped[int] = mapped_column(BigInteger)
    last_seal: Mapped[bytes] = mapped_column(LargeBinary)
