"""The tables of the journal."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Index,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base
from mo_grpc.journal.rules import Kind


class Event(Base):
    """A change of money or state, which never changes. The customer's lock is held by whoever writes one.

    There are no foreign keys: each would cost a payment as much as its event.
    """

    __tablename__ = "journal_events"
    __table_args__ = (
        CheckConstraint("number > 0", "number"),
        CheckConstraint(f"kind BETWEEN {min(Kind)} AND {max(Kind)}", "kind"),
        CheckConstraint("length(hash) = 32", "hash"),
        Index(None, "xid"),
        Index(None, "payment_id", postgresql_where=text("payment_id IS NOT NULL")),
        Index(None, "recorded_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    )

    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # Without gaps within a customer.
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # The transaction that wrote it; by this, the sequencer knows which events have become visible.
    xid: Mapped[int] = mapped_column(BigInteger, server_default=text("pg_current_xact_id()::text::bigint"))
    kind: Mapped[int] = mapped_column(SmallInteger)
    recorded_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    actor: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    backfilled: Mapped[bool] = mapped_column(Boolean)
    payment_id: Mapped[int | None] = mapped_column(BigInteger)
    amount: Mapped[Decimal | None] = mapped_column(Numeric(20, 2))
    score_before: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    score_after: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    debt_before: Mapped[Decimal | None] = mapped_column(Numeric(20, 2))
    debt_after: Mapped[Decimal] = mapped_column(Numeric(20, 2))
    # Of each loan that the event is about, in the same order; before it was created, it has the values 0.
    loan_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    loan_statuses_before: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    loan_statuses_after: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    outstandings_before: Mapped[list[Decimal]] = mapped_column(ARRAY(Numeric))
    outstandings_after: Mapped[list[Decimal]] = mapped_column(ARRAY(Numeric))
    # Of the customer, for events about the customer alone.
    status_before: Mapped[int | None] = mapped_column(SmallInteger)
    status_after: Mapped[int | None] = mapped_column(SmallInteger)
    preapproved_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    version: Mapped[int | None] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class Position(Base):
    """The place of an event among all; the sequencer gives it when the event is visible to all."""

    __tablename__ = "journal_positions"
    __table_args__ = (
        Index(
            "journal_positions_customer_id_number_key",
            "customer_id",
            "number",
            unique=True,
            postgresql_include=["position"],
        ),
        # Most events are payments; the others are found without reading these.
        Index("journal_positions_kind_idx", "kind", "position", postgresql_where=text(f"kind <> {Kind.PAYMENT_COMPLETED}")),
    )

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    customer_id: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[int] = mapped_column(SmallInteger)


class Head(Base):
    """One row: the last position, and which transactions the sequencer has seen."""

    __tablename__ = "journal_head"
    __table_args__ = (CheckConstraint("singleton", "singleton"),)

    singleton: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    position: Mapped[int] = mapped_column(BigInteger)
    snapshot: Mapped[str] = mapped_column(Text)
