"""Between the wire's formats and Python's: money and times."""

from datetime import UTC, datetime
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp

from mo_grpc.errors import FieldViolation, InvalidFields

_CENT = Decimal("0.01")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def money(amount: Decimal) -> str:
    """A decimal string with two places, as every answer has it."""
    return f"{amount:.2f}"


def parse_money(text: str) -> Decimal:
    """An amount that has passed the proto's rules; always with two places, so that equal amounts print alike."""
    return Decimal(text).quantize(_CENT)


def timestamp(value: datetime | None) -> Timestamp | None:
    """A protobuf timestamp; None stays absent."""
    if value is None:
        return None
    since = value - _EPOCH
    # What Timestamp.FromDatetime does, in a third of its time; an answer has up to four of these.
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def moment(value: Timestamp, field: str) -> datetime:
    """A moment in UTC; what is finer than a microsecond is cut off, as PostgreSQL stores none of it.

    Raises:
        InvalidFields: its nanoseconds are not the fraction of a second, which the protos' rules do not check.
    """
    if not 0 <= value.nanos < 1_000_000_000:
        raise InvalidFields([FieldViolation(field, "must have 0 to 999,999,999 nanoseconds")])
    return value.ToDatetime(tzinfo=UTC)
