"""The table of attempts."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base


class HoneypotAttempt(Base):
    """Somebody tried to log in at the honeypot; the password is not kept."""

    __tablename__ = "honeypot_attempts"
    __table_args__ = (
        CheckConstraint("length(user_agent) <= 300", "user_agent"),
        CheckConstraint("length(path) <= 300", "path"),
        CheckConstraint("length(username) <= 150", "username"),
        Index(None, "address", "id"),
        # For deleting old ones.
        Index(None, "at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    address: Mapped[str] = mapped_column(Text(collation="C"))
    user_agent: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    username: Mapped[str] = mapped_column(Text)
