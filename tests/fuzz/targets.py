"""What is fuzzed: each target takes any bytes, and fails if what reads them breaks a promise.

`make fuzz` looks for bytes that do, guided by coverage; `make test` tries those that it has found before (`corpus/`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Final, cast

from google.protobuf.timestamp_pb2 import Timestamp
from mo.customers.v1.customers_pb2 import CreateCustomerRequest, Customer
from mo.payments.v1.payments_pb2 import ListPaymentsRequest, Payment

from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.auth.tokens.rules import key_id
from mo_grpc.errors import InvalidArgument, InvalidFields, InvalidPageToken
from mo_grpc.imports.form import Form, FormError, sent_name
from mo_grpc.imports.lines import UnreadableError, chunks
from mo_grpc.journal.previews import expected_number
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, money, parse_money, timestamp
from mo_grpc.rpc.metadata import basic, credentials
from mo_grpc.rpc.pages import PageRequest
from mo_grpc.rpc.validation import validate


async def _pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def import_lines(data: bytes) -> None:
    """Whatever a file is, each of its bytes is in one chunk, and each of its lines is one line for PostgreSQL."""
    size, content = (data[0] or 1) if data else 1, data[1:]

    async def read() -> int:
        found = 0
        async for chunk in chunks(_pieces(content, size), None):
            assert chunk.content.count("\n") == chunk.lines
            assert chunk.content.endswith("\n")
            assert "\x00" not in chunk.content
            chunk.content.encode()
            found += chunk.size
        return found

    with suppress(UnreadableError):
        assert asyncio.run(read()) == len(content)


def form(data: bytes) -> None:
    """A form is read, or refused in words, however it is cut; a file that is read whole is part of what was sent."""
    size, body = (data[0] or 1) if data else 1, data[1:]

    async def read() -> bytes:
        found = Form("multipart/form-data; boundary=b", _pieces(body, size))
        await found.begin()
        assert all(len(value) <= 1000 for value in found.fields.values())
        return b"".join([piece async for piece in found.chunks()])

    with suppress(FormError):
        assert asyncio.run(read()) in body
    # gRPC's metadata and HTTP's headers bring printable ASCII alone.
    sent_name(bytes(byte for byte in body if 32 <= byte < 127).decode())


def page_token(data: bytes) -> None:
    """No token is taken but one that the list itself has made."""
    token = data.decode("latin1")
    try:
        page = PageRequest(ListPaymentsRequest(page_token=token))
    except InvalidPageToken:
        return
    assert token == ("" if page.after is None else page.next_token(page.after))


def preview_token(data: bytes) -> None:
    """No token is taken but one that was made for the request; only a hash can tell, so none that was made up is."""
    request = CreateCustomerRequest(customer=Customer(external_id="c", score="1"), preview_token=data.decode("latin1"))
    try:
        assert expected_number(request) is None, "nobody has made this token"
    except InvalidArgument:
        assert data


def credential(data: bytes) -> None:
    """Whatever a caller presents is read, or is nothing: a key that is read prints as it was sent."""
    text = data.decode("latin1")
    found = Credential.parse(text)
    assert found is None or str(found) == text
    key_id(text)
    context = cast("Context", SimpleNamespace(invocation_metadata=lambda: (("authorization", text),)))
    for scheme in ("bearer", "basic"):
        presented = credentials(context, "authorization", scheme)
        assert presented is None or text.lower().startswith(scheme)
    if pair := basic(context, "authorization"):
        assert ":" not in pair[0]


def amount(data: bytes) -> None:
    """What passes the rules of the protos is an exact amount, and is answered with two places; all else is refused."""
    text = data.decode("utf-8", "replace")
    payment = Payment(external_id="p", customer_external_id="c", total_amount=text)
    try:
        validate(payment)
    except InvalidFields:
        return
    if text:
        parsed = parse_money(text)
        assert parsed == Decimal(text) > 0
        assert parse_money(money(parsed)) == parsed < Decimal(10) ** 18


def instant(data: bytes) -> None:
    """A time that is taken is answered as it was sent, to the microsecond; all others are refused."""
    padded = data[:12].ljust(12, b"\x00")
    sent = Timestamp(
        seconds=int.from_bytes(padded[:8], "big", signed=True), nanos=int.from_bytes(padded[8:], "big", signed=True)
    )
    try:
        validate(Customer(preapproved_at=sent))
        taken = moment(sent, "preapproved_at")
    except InvalidFields:
        return
    answered = timestamp(taken)
    assert answered
    assert (answered.seconds, answered.nanos) == (sent.seconds, sent.nanos // 1000 * 1000)


TARGETS: Final[dict[str, Callable[[bytes], Any]]] = {
    each.__name__: each for each in (import_lines, form, page_token, preview_token, credential, amount, instant)
}
