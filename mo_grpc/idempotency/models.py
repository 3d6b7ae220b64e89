"""The table of the answers to idempotency keys."""

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, Index, LargeBinary, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base


class IdempotencyRecord(Base):
    """The answer to a caller's key, written in the transaction of the effect (docs/rules.md, R51)."""

    __tablename__ = "idempotency_records"
    __table_args__ = (
        CheckConstraint("length(key) BETWEEN 1 AND 255", "key"),
        CheckConstraint("length(request_hash) = 32", "request_hash"),
        # For deleting old records.
        Index(None, "created_at"),
    )

    owner: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    request_hash: Mapped[bytes] = mapped_column(LargeBinary)
    refused: Mapped[bool] = mapped_column(Boolean)
    answer: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
