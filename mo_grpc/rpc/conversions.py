"""Between the wire's formats and Python's: money, times, page tokens."""

import base64
import binascii
import hashlib
import struct
from datetime import UTC, datetime
from decimal import Decimal

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mo_grpc.errors import FieldViolation, InvalidFields, InvalidPageToken

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

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


def page_size(requested: int) -> int:
    """The number of rows to answer: the default for 0, and never more than the most (AIP-158)."""
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


_TOKEN = struct.Struct(">q8s")


def page_token(last_id: int, request: Message) -> str:
    """The token of the page that follows the row `last_id`, in the list that was asked for."""
    return base64.urlsafe_b64encode(_TOKEN.pack(last_id, _digest(last_id, request))).decode()


def parse_page_token(token: str, request: Message) -> int | None:
    """The id that the page starts behind; None for the first page.

    Raises:
        InvalidPageToken: the token is damaged, or of another list, or of other filters (AIP-158).
    """
    if not token:
        return None
    try:
        last_id, digest = _TOKEN.unpack(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, struct.error, ValueError) as error:
        raise InvalidPageToken from error
    if digest != _digest(last_id, request):
        raise InvalidPageToken
    return int(last_id)


def _digest(last_id: int, request: Message) -> bytes:
    """Seals a place in a list: the request's type stands for the RPC, and whatever is not the page's own is a filter."""
    content = [(field.name, value) for field, value in request.ListFields() if field.name not in ("page_size", "page_token")]
    return hashlib.blake2b(repr((last_id, request.DESCRIPTOR.full_name, content)).encode(), digest_size=8).digest()
