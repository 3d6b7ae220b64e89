"""The tables of payments and their details."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base, external_id_check
from mo_grpc.payments.rules import RejectionKind, Status


class Payment(Base):
    """A payment. Rows are never deleted; only a bounce changes one."""

    __tablename__ = "payments"
    __table_args__ = (
        UniqueConstraint("external_id"),
        UniqueConstraint("id", "customer_id"),
        external_id_check(),
        CheckConstraint("total_amount > 0", "total_amount"),
        CheckConstraint(
            f"CASE WHEN status = {Status.COMPLETED}"
            " THEN paid_at IS NOT NULL AND num_nonnulls(rejected_at, rejection_kind, rejection_reason) = 0"
            f" WHEN status = {Status.REJECTED} AND rejected_at IS NOT NULL AND length(rejection_reason) BETWEEN 1 AND 500"
            f" THEN coalesce((rejection_kind = {RejectionKind.INSUFFICIENT_DEBT} AND paid_at IS NULL)"
            f" OR (rejection_kind = {RejectionKind.BOUNCED} AND paid_at IS NOT NULL), false)"
            " ELSE false END",
            "status",
        ),
        # For lists, by each combination of filters, newest first.
        Index(None, "customer_id", "id"),
        Index(None, "customer_id", "status", "id"),
        Index(None, "status", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("customers.id"))
    external_id: Mapped[str] = mapped_column(Text(collation="C"))
    total_amount: Mapped[Decimal] = mapped_column(Numeric(20, 2))
    status: Mapped[int] = mapped_column(SmallInteger)
    paid_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    rejected_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    rejection_kind: Mapped[int | None] = mapped_column(SmallInteger)
    rejection_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


class PaymentDetail(Base):
    """The part of a payment that went to one loan of the same customer. Rows never change."""

    __tablename__ = "payment_details"
    __table_args__ = (
        ForeignKeyConstraint(["payment_id", "customer_id"], ["payments.id", "payments.customer_id"]),
        ForeignKeyConstraint(["loan_id", "customer_id"], ["loans.id", "loans.customer_id"]),
        CheckConstraint("amount > 0", "amount"),
        Index(None, "loan_id", "payment_id"),
    )

    payment_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    loan_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
