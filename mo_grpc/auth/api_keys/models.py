"""The table of API keys."""

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.auth.api_keys.rules import MAX_CUSTOMERS, MAX_NAME, MAX_NETWORKS
from mo_grpc.db.base import Base, is_external_id

KEYS_CHANNEL = "mo_api_keys"
"""A trigger notifies this channel with the id of each key that is made, changed or revoked."""


class ApiKey(Base):
    """An API key. The secret itself is shown once, to whoever made the key, and not stored."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("id ~ '^[0-9A-Za-z]+$' AND length(id) = 12", "id"),
        CheckConstraint(f"length(name) BETWEEN 1 AND {MAX_NAME}", "name"),
        CheckConstraint("length(secret_hash) = 32", "secret_hash"),
        CheckConstraint(
            "(previous_secret_hash IS NULL) = (previous_expires_at IS NULL) AND length(previous_secret_hash) = 32", "previous"
        ),
        UniqueConstraint("number"),
        # For servers that look for changes whose notification was lost.
        Index(None, "changed_at"),
        CheckConstraint(f"cardinality(allowed_networks) <= {MAX_NETWORKS}", "allowed_networks"),
        CheckConstraint("calls_per_second >= 0", "calls_per_second"),
        CheckConstraint("calls_per_day >= 0", "calls_per_day"),
        CheckConstraint(f"cardinality(customer_external_ids) <= {MAX_CUSTOMERS}", "customer_external_ids"),
        CheckConstraint(
            f"customer_external_id_prefix = '' OR {is_external_id('customer_external_id_prefix')}",
            "customer_external_id_prefix",
        ),
        # For whoever asks what an account leaves behind.
        Index("api_keys_created_by_idx", "created_by"),
    )

    id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # The secret before the last rotation stays valid for a while.
    previous_secret_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_expires_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    # When it was made, or something of it changed but when it was last used; a trigger keeps it.
    changed_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=text("clock_timestamp()"))
    # By which they are listed: ids are random.
    number: Mapped[int] = mapped_column(BigInteger, Identity())
    # From where and how often it may call; empty and 0 are without a limit.
    allowed_networks: Mapped[list[str]] = mapped_column(ARRAY(CIDR), server_default=text("'{}'"))
    calls_per_second: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    calls_per_day: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Who made it, as events name their actors; empty where nobody knows any more.
    created_by: Mapped[str] = mapped_column(Text, server_default=text("''"))
    # The customers that it is bound to, for good; without any, and without a prefix, it is not bound.
    customer_external_ids: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    customer_external_id_prefix: Mapped[str] = mapped_column(Text, server_default=text("''"))


class ApiKeyCalls(Base):
    """How often a key that has limits called on a day (UTC)."""

    __tablename__ = "api_key_calls"
    __table_args__ = (CheckConstraint("calls >= 0", "calls"),)

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger)
