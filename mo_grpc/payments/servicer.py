"""PaymentService over the store of payments."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TypeAlias, cast

from google.protobuf.message import Message
from mo.payments.v1 import payments_pb2, payments_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.idempotency.rules import IdempotencyKey, Keyed, Replay, make_key
from mo_grpc.idempotency.store import in_batches, remembering
from mo_grpc.idempotency.writer import Writer, request_key
from mo_grpc.payments import store
from mo_grpc.payments.rules import NewPayment, Payment, PaymentRejection
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import money, parse_money, timestamp
from mo_grpc.rpc.pages import PageRequest
from mo_grpc.rpc.validation import validate

CREATE_PAYMENT = "/mo.payments.v1.PaymentService/CreatePayment"

Result = payments_pb2.BatchCreatePaymentsResponse.Result
Outcome: TypeAlias = "Payment | Message | Replay | ServiceError"


class PaymentServicer(payments_pb2_grpc.PaymentServiceServicer):
    """See `mo/payments/v1/payments.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._get = database.reader(store.get_payments)
        by_customer, by_id, message = attrgetter("customer_external_id"), attrgetter("external_id"), payments_pb2.Payment
        self._create = Writer(database, store.create_payments, by_customer, to_message, message)
        self._bounce = Writer(database, store.bounce_payments, by_id, to_message, message)
        response = payments_pb2.BatchCreatePaymentsResponse
        batches = in_batches(remembering(store.create_payments, to_message))
        self._create_batch = Writer(database, batches, None, batch_message, response, max_batch=1)

    async def CreatePayment(self, request: payments_pb2.CreatePaymentRequest, context: Context) -> payments_pb2.Payment:
        key = request_key(request, context) or item_key(request)
        return await self._create(to_command(request), key, context)

    async def GetPayment(self, request: payments_pb2.GetPaymentRequest, context: Context) -> payments_pb2.Payment:
        return to_message(await self._get(request.external_id))

    async def ListPayments(
        self, request: payments_pb2.ListPaymentsRequest, context: Context
    ) -> payments_pb2.ListPaymentsResponse:
        page = PageRequest(request)
        filters = (request.customer_external_id, request.loan_external_id, int(request.status))
        rows, more = await self._database.read(lambda c: store.list_payments(c, *filters, page.after, page.size))
        token = page.next_token(rows[-1].id) if more else ""
        return payments_pb2.ListPaymentsResponse(payments=map(to_message, rows), next_page_token=token)

    async def RejectPayment(self, request: payments_pb2.RejectPaymentRequest, context: Context) -> payments_pb2.Payment:
        command = PaymentRejection(request.external_id, request.reason)
        return await self._bounce(command, request_key(request, context), context)

    async def BatchCreatePayments(
        self, request: payments_pb2.BatchCreatePaymentsRequest, context: Context
    ) -> payments_pb2.BatchCreatePaymentsResponse:
        items = tuple(to_item(item, f"requests[{index}].") for index, item in enumerate(request.requests))
        return await self._create_batch(items, request_key(request, context), context)


def to_item(request: payments_pb2.CreatePaymentRequest, prefix: str) -> Keyed[NewPayment] | ServiceError:
    """The command of one item of a batch, or what is wrong with it."""
    try:
        validate(request, prefix=prefix)
    except ServiceError as error:
        return error
    return Keyed(to_command(request), item_key(request))


def item_key(request: payments_pb2.CreatePaymentRequest) -> IdempotencyKey | None:
    """The idempotency key in a request itself; it is the same in a batch and in a call of its own."""
    if not request.idempotency_key:
        return None
    return make_key(caller().id, request.idempotency_key, CREATE_PAYMENT, request)


def to_command(request: payments_pb2.CreatePaymentRequest) -> NewPayment:
    """The command of a request that is valid."""
    payment = request.payment
    return NewPayment(payment.external_id, payment.customer_external_id, parse_money(payment.total_amount))


def batch_message(outcomes: Sequence[Outcome]) -> payments_pb2.BatchCreatePaymentsResponse:
    """The results of a batch."""
    return payments_pb2.BatchCreatePaymentsResponse(results=map(to_result, outcomes))


def to_result(outcome: Outcome) -> Result:
    """The result of one item of a batch."""
    if isinstance(outcome, Payment):
        return Result(payment=to_message(outcome))
    if isinstance(outcome, Message):
        return Result(payment=cast("payments_pb2.Payment", outcome))
    if isinstance(outcome, Replay) and outcome.refusal is None:
        return Result(payment=payments_pb2.Payment.FromString(outcome.record.answer))
    refusal = outcome.refusal if isinstance(outcome, Replay) else outcome
    return Result(status=refusal.to_status() if refusal else None)


def to_message(payment: Payment) -> payments_pb2.Payment:
    """A stored payment, as a message."""
    message = payments_pb2.Payment(
        external_id=payment.external_id,
        customer_external_id=payment.customer_external_id,
        total_amount=money(payment.total_amount),
        status=payments_pb2.Payment.Status.ValueType(payment.status),
        paid_at=timestamp(payment.paid_at),
        created_at=timestamp(payment.created_at),
        updated_at=timestamp(payment.updated_at),
        rejected_at=timestamp(payment.rejected_at),
    )
    for detail in payment.details:
        message.payment_details.add(loan_external_id=detail.loan_external_id, amount=money(detail.amount))
    if payment.rejection_kind is not None:
        message.rejection.kind = payments_pb2.Payment.Rejection.Kind.ValueType(payment.rejection_kind)
        message.rejection.reason = payment.rejection_reason or ""
    return message
