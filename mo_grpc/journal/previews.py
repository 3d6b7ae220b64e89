"""Previews: what a change would do, shown without doing it, and done later as it was shown or not at all (AIP-163)."""

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from google.protobuf.message import Message
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.engine import Database
from mo_grpc.db.locks import Locks
from mo_grpc.db.pipeline import Rows
from mo_grpc.errors import InvalidArgument, PreviewStale
from mo_grpc.idempotency.rules import IdempotencyKey
from mo_grpc.idempotency.writer import Writer
from mo_grpc.journal.rules import Origin, Recorded
from mo_grpc.rpc.context import Context

_TOKEN: Final = struct.Struct(">q16s")
_NOT_SHOWN: Final = ("validate_only", "preview_token", "idempotency_key")
"""What may differ between a preview's request and that of the call."""


class _Command(Protocol):
    """A command of a store."""

    @property
    def origin(self) -> Origin: ...

    def _replace(self, *, origin: Origin) -> Self: ...


class _Result(Protocol):
    """What a store has decided on."""

    @property
    def recorded(self) -> Recorded | None: ...


C = TypeVar("C", bound=_Command)
R = TypeVar("R", bound=_Result)
T = TypeVar("T")
M = TypeVar("M", bound=Message)


class PreviewedWriter(Generic[C, R, M]):
    """The write of one RPC, as `idempotency.Writer`, whose requests may ask for a preview."""

    def __init__(
        self,
        database: Database,
        write: BatchWrite[C, R],
        key: Callable[[C], Hashable],
        to_message: Callable[[R], M],
        message_type: type[M],
    ) -> None:
        self._write = Writer(database, write, key, to_message, message_type)
        self._preview = database.writer(previewed(write), None, max_batch=1)
        self._to_message = to_message

    async def __call__(self, command: C, request: Message, key: IdempotencyKey | None, context: Context) -> M:
        """Run one command for the call of `context`, or show what it would do.

        Raises:
            PreviewStale: it would do something else than the preview showed; the error has a new preview.
            ServiceError: the command's refusal, or that of its idempotency key.
        """
        if request.validate_only:  # type: ignore[attr-defined] # every request of a change has it
            return await self._show(command, request)
        try:
            return await self._write(command, key, context)
        except PreviewStale:
            shown = await self._show(command._replace(origin=command.origin._replace(expected=None)), request)
            raise PreviewStale(shown.preview_token, shown) from None  # type: ignore[attr-defined] # and every answer

    async def _show(self, command: C, request: Message) -> M:
        result = await self._preview(command)
        message = self._to_message(result)
        put_token(message, result, request)
        return message


def previewed(write: BatchWrite[T, Any]) -> BatchWrite[T, Any]:
    """A write that decides, and does nothing."""

    def decide(commands: Sequence[T], rows: Iterator[Rows], locks: Locks) -> Decision[Any]:
        return Decision(write.decide(commands, rows, locks).results)

    return BatchWrite(write.lock, decide)


def put_token(answer: Message, result: _Result, request: Message) -> None:
    """Put into a preview's answer the token by which the request is done as it was shown."""
    if result.recorded:
        before = result.recorded.number - 1
        token = _TOKEN.pack(before, _digest(before, request))
        answer.preview_token = base64.urlsafe_b64encode(token).decode()  # type: ignore[attr-defined] # every such answer has it


def expected_number(request: Message) -> int | None:
    """The number of the customer's last event at the preview whose token a request carries; None if it carries none.

    Raises:
        InvalidArgument: the token is damaged, or was made for another request.
    """
    sent = getattr(request, "preview_token", "")  # a batch has none, its items have
    if not sent or request.validate_only:  # type: ignore[attr-defined] # every request of a change has it
        return None
    with suppress(binascii.Error, struct.error, ValueError):
        before, digest = _TOKEN.unpack(base64.b64decode(sent, altchars=b"-_", validate=True))
        if digest == _digest(before, request):
            return int(before)
    message = "The preview token is damaged, or was made for another request."
    raise InvalidArgument(ErrorReason.PREVIEW_TOKEN_INVALID, message)


def _digest(before: int, request: Message) -> bytes:
    """Binds a token to the request that was previewed, and to the instant."""
    plain = type(request)()
    plain.CopyFrom(request)
    for name in _NOT_SHOWN:
        if name in plain.DESCRIPTOR.fields_by_name:
            plain.ClearField(name)
    content = f"{before} {plain.DESCRIPTOR.full_name} ".encode() + plain.SerializeToString(deterministic=True)
    return hashlib.sha256(content).digest()[:16]
