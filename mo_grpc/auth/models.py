"""The table of API keys."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Identity, LargeBinary, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base

KEYS_CHANNEL = "mo_api_keys"
"""A trigger notifies this channel with the id of each key that is made, changed or revoked."""


class ApiKey(Base):
    """An API key. The secret itself is shown once, to whoever made the key, and not stored."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("id ~ '^[0-9A-Za-z]+$' AND length(id) = 12", "id"),
        CheckConstraint("length(name) BETWEEN 1 AND 100", "name"),
        CheckConstraint("length(secret_hash) = 32", "secret_hash"),
        CheckConstraint(
            "(previous_secret_hash IS NULL) = (previous_expires_at IS NULL) AND length(previous_secret_hash) = 32", "previous"
        ),
        UniqueConstraint("number"),
    )

    id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # The secret before the last rotation counts for a while still.
    previous_secret_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_expires_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # By which they are listed: ids are random.
    number: Mapped[int] = mapped_column(BigInteger, Identity())
