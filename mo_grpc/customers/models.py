"""The table of customers."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, Numeric, SmallInteger, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.customers.rules import Status
from mo_grpc.db.base import Base, external_id_check


class Customer(Base):
    """A customer. Its row lock orders everything that touches its debt."""

    __tablename__ = "customers"
    __table_args__ = (
        UniqueConstraint("external_id"),
        external_id_check(),
        CheckConstraint(f"status IN ({Status.ACTIVE}, {Status.INACTIVE})", "status"),
        CheckConstraint("score >= 0", "score"),
        # The web admin's list of the few that are INACTIVE, newest first; the others are found without an index.
        Index("customers_inactive_idx", "id", postgresql_where=text(f"status = {Status.INACTIVE}")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    external_id: Mapped[str] = mapped_column(Text(collation="C"))
    status: Mapped[int] = mapped_column(SmallInteger, server_default=text(str(Status.ACTIVE)))
    score: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    preapproved_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
