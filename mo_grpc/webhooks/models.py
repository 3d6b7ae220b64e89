"""The tables of webhooks."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
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
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from mo_grpc.db.base import Base
from mo_grpc.webhooks.rules import MAX_DESCRIPTION, MAX_URL, DeliveryState, DisabledReason

_TIME = TIMESTAMP(timezone=True)


class Webhook(Base):
    """Where events are sent. One that is deleted stays, because attempts and the audit log name it."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint(f"length(url) BETWEEN 1 AND {MAX_URL}", "url"),
        CheckConstraint(f"length(description) <= {MAX_DESCRIPTION}", "description"),
        CheckConstraint("(customer_id IS NULL) = (customer_external_id = '')", "customer"),
        CheckConstraint("(previous_secret IS NULL) = (previous_expires_at IS NULL)", "previous"),
        CheckConstraint("position >= 0", "position"),
        CheckConstraint(
            f"disabled_reason BETWEEN 0 AND {max(DisabledReason)} AND (disabled_reason = 0) = (disabled_at IS NULL)", "disabled"
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    kinds: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))
    customer_external_id: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    # Encrypted.
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    previous_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_expires_at: Mapped[datetime | None] = mapped_column(_TIME)
    # Up to here, there is a delivery for each event that it gets.
    position: Mapped[int] = mapped_column(BigInteger)
    disabled_reason: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    disabled_at: Mapped[datetime | None] = mapped_column(_TIME)
    failing_since: Mapped[datetime | None] = mapped_column(_TIME)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(_TIME)
    updated_at: Mapped[datetime] = mapped_column(_TIME)
    deleted_at: Mapped[datetime | None] = mapped_column(_TIME)


_PENDING = text(f"state = {DeliveryState.PENDING}")
_SCHEDULED = text("next_at IS NOT NULL")


class Delivery(Base):
    """An event that a webhook gets. Of each customer, only the first that is PENDING has a time to be sent at.

    Whoever sends one has a claim on it, and moves `next_at` to when the claim ends.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint(
            f"state BETWEEN {min(DeliveryState)} AND {max(DeliveryState)} AND (state = {DeliveryState.PENDING}) = "
            f"(finished_at IS NULL) AND (state = {DeliveryState.PENDING} OR next_at IS NULL)",
            "state",
        ),
        CheckConstraint("attempts >= 0", "attempts"),
        Index(None, "webhook_id", "next_at", postgresql_where=_SCHEDULED),
        Index("webhook_deliveries_pending_idx", "webhook_id", "customer_id", "position", postgresql_where=_PENDING),
        Index("webhook_deliveries_scheduled_idx", "webhook_id", "customer_id", postgresql_where=_SCHEDULED),
        Index(
            "webhook_deliveries_given_up_idx",
            "webhook_id",
            "finished_at",
            postgresql_where=text(f"state = {DeliveryState.GIVEN_UP}"),
        ),
        Index(None, "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[int] = mapped_column(SmallInteger, server_default=text(str(DeliveryState.PENDING)))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_at: Mapped[datetime | None] = mapped_column(_TIME)
    claim: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None] = mapped_column(_TIME)


class Attempt(Base):
    """An attempt to send an event; a test event has the position 0."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (
        CheckConstraint("number > 0", "number"),
        CheckConstraint("duration_ms >= 0", "duration_ms"),
        Index(None, "webhook_id", "id"),
        Index("webhook_attempts_failed_idx", "webhook_id", "id", postgresql_where=text("error <> ''")),
        Index(None, "attempted_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"))
    event_id: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(Integer)
    attempted_at: Mapped[datetime] = mapped_column(_TIME)
    duration_ms: Mapped[int] = mapped_column(Integer)
    status_code: Mapped[int] = mapped_column(SmallInteger)
    error: Mapped[str] = mapped_column(Text)
    response: Mapped[str] = mapped_column(Text)
    next_attempt_at: Mapped[datetime | None] = mapped_column(_TIME)
    given_up: Mapped[bool] = mapped_column(Boolean)
