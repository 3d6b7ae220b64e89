"""The table of loans."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base, external_id_check
from mo_grpc.loans.rules import Status


class Loan(Base):
    """A loan. `outstanding` is `amount` less the details of COMPLETED payments against it."""

    __tablename__ = "loans"
    __table_args__ = (
        UniqueConstraint("external_id"),
        # A payment's detail refers to the loan and the customer together, so that no payment touches two customers (R33).
        UniqueConstraint("id", "customer_id"),
        external_id_check(),
        CheckConstraint("amount > 0", "amount"),
        CheckConstraint("outstanding BETWEEN 0 AND amount", "outstanding"),
        CheckConstraint(
            "CASE status"
            f" WHEN {Status.PENDING} THEN taken_at IS NULL AND outstanding = amount"
            f" WHEN {Status.ACTIVE} THEN taken_at IS NOT NULL AND outstanding > 0"
            f" WHEN {Status.REJECTED} THEN taken_at IS NULL AND outstanding = amount"
            f" WHEN {Status.PAID} THEN taken_at IS NOT NULL AND outstanding = 0"
            " ELSE false END",
            "status",
        ),
        CheckConstraint("length(contract_version) BETWEEN 1 AND 30", "contract_version"),
        # For lists, by each combination of filters, newest first.
        Index(None, "customer_id", "id"),
        Index(None, "customer_id", "status", "id"),
        Index(None, "status", "id"),
        # For spreading a payment: the ACTIVE loans, oldest first.
        Index("loans_distribution_idx", "customer_id", "taken_at", "id", postgresql_where=text(f"status = {Status.ACTIVE}")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("customers.id"))
    external_id: Mapped[str] = mapped_column(Text(collation="C"))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    outstanding: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    status: Mapped[int] = mapped_column(SmallInteger, server_default=text(str(Status.PENDING)))
    contract_version: Mapped[str | None] = mapped_column(Text)
    taken_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    maximum_payment_date: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
