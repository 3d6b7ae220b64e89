"""The writes of a servicer: coalesced with other calls, and executed once for each idempotency key."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, cast

from google.protobuf.message import Message

from mo_grpc.db.batches import BatchWrite
from mo_grpc.db.coalescing import MAX_BATCH, Coalescer
from mo_grpc.db.engine import Database
from mo_grpc.idempotency.rules import HEADER, REPLAYED, IdempotencyKey, Keyed, Replay, in_flight, make_key
from mo_grpc.idempotency.store import remembering
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.telemetry.counts import Happening, count

C = TypeVar("C")
R = TypeVar("R")
M = TypeVar("M", bound=Message)


class Writer(Generic[C, R, M]):
    """A store's write for one RPC; commands with the same `key` keep their order, as in `Database.writer`."""

    def __init__(
        self,
        database: Database,
        write: BatchWrite[C, R],
        key: Callable[[C], Hashable] | None,
        to_message: Callable[[R], M],
        message_type: type[M],
        max_batch: int = MAX_BATCH,
    ) -> None:
        self._coalesced: Coalescer[Keyed[C], R | Message | Replay] = database.writer(
            remembering(write, to_message), (lambda keyed: key(keyed.command)) if key else None, max_batch
        )
        self._to_message = to_message
        self._message_type = message_type
        self._in_flight: set[tuple[str, str]] = set()

    async def __call__(self, command: C, key: IdempotencyKey | None, context: Context) -> M:
        """Run one command for the call of `context`; if the answer is a stored one, its metadata say so.

        Raises:
            ServiceError: the command's refusal, or that of its idempotency key.
        """
        if key is None:
            result = await self._coalesced(Keyed(command, None))
        else:
            # Another batch of this process might hold the same advisory lock, so look here first.
            if key[:2] in self._in_flight:
                raise in_flight()
            self._in_flight.add(key[:2])
            try:
                result = await self._coalesced(Keyed(command, key))
            finally:
                self._in_flight.discard(key[:2])
        if isinstance(result, Replay):
            count(Happening.REPLAY)
            await context.send_initial_metadata((REPLAYED,))
            if refusal := result.refusal:
                raise refusal
            return self._message_type.FromString(result.record.answer)
        return result if isinstance(result, self._message_type) else self._to_message(cast("R", result))


def request_key(request: Message, context: Context) -> IdempotencyKey | None:
    """The idempotency key that a call carries in its metadata.

    Raises:
        InvalidFields: it is malformed.
    """
    for name, value in context.invocation_metadata() or ():
        if name == HEADER:
            who = caller()
            return make_key(who.id, str(value), who.method, request)
    return None
