"""The tables of users, their sessions, refresh tokens and recovery codes, and of failed logins."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base

USERS_CHANNEL = "mo_people"
"""Triggers notify this channel of each change to what tokens stand for: `user 5`, `session …`, `key …`."""


class User(Base):
    """A user. The secret of one-time codes is encrypted (`mo_grpc.crypto`), the password hashed with Argon2id."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        CheckConstraint("length(email) BETWEEN 3 AND 254 AND position('@' IN email) > 1", "email"),
        CheckConstraint("length(first_name) <= 100", "first_name"),
        CheckConstraint("length(last_name) <= 100", "last_name"),
        CheckConstraint("role IN (1, 2, 3)", "role"),
        CheckConstraint("otp_enabled_at IS NULL OR otp_secret IS NOT NULL", "otp"),
        # For servers that look for changes whose notification was lost.
        Index(None, "updated_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    email: Mapped[str] = mapped_column(Text(collation="C"))
    first_name: Mapped[str] = mapped_column(Text)
    last_name: Mapped[str] = mapped_column(Text)
    role: Mapped[int] = mapped_column(SmallInteger)
    staff: Mapped[bool] = mapped_column(Boolean)
    password_hash: Mapped[str] = mapped_column(Text)
    must_change_password: Mapped[bool] = mapped_column(Boolean)
    locked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # Set at enrolment; it is used from `otp_enabled_at` on.
    otp_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    otp_enabled_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # The 30-second step of the newest code that was accepted: none up to it is accepted again.
    otp_last_step: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_login_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    password_changed_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


class RecoveryCode(Base):
    """A code that stands in for the app's, once; its keyed hash."""

    __tablename__ = "recovery_codes"
    __table_args__ = (CheckConstraint("length(code_hash) = 32", "code_hash"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class LoginFailure(Base):
    """How often logins failed lately, for an account, whether or not there is such a one, or from an address."""

    __tablename__ = "login_failures"
    __table_args__ = (
        CheckConstraint("failures >= 0", "failures"),
        # For cleaning up.
        Index(None, "last_at"),
    )

    subject: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    last_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


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
