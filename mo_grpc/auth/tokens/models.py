"""The tables of signing keys, sessions and refresh tokens."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base

USERS_CHANNEL = "mo_people"
"""Triggers notify this channel of each change to what tokens stand for: `user 5`, `session …`, `key …`."""


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
    # Set when another took over: until then, what it signed still counts.
    valid_until: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class Session(Base):
    """A login and all the tokens that follow from it."""

    __tablename__ = "sessions"
    __table_args__ = (
        CheckConstraint("length(id) = 22", "id"),
        Index(None, "user_id"),
        # For cleaning up.
        Index(None, "expires_at"),
        # For servers that start to follow.
        Index(None, "revoked_at"),
    )

    id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class RefreshToken(Base):
    """A refresh token, used or not; a used one that comes again was stolen."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (CheckConstraint("length(token_hash) = 32", "token_hash"), Index(None, "session_id"))

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
