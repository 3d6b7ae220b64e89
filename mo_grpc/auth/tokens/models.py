"""The table of signing keys."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base


class SigningKey(Base):
    """A key pair that signs access tokens; the private half is encrypted (`mo_grpc.crypto`)."""

    __tablename__ = "signing_keys"
    __table_args__ = (
        CheckConstraint("length(public_key) = 32", "public_key"),
        # One key signs at a time.
        Index(
            "signing_keys_current_idx", text("(valid_until IS NULL)"), unique=True, postgresql_where=text("valid_until IS NULL")
        ),
    )

    kid: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    private_key: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    # Set when another took over: until then, what it signed is still valid.
    valid_until: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
