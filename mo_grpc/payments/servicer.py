"""PaymentService over the store of payments."""

from collections.abc import Sequence
from decimal import Decimal
from operator import attrgetter
from typing import TypeAlias, cast

from google.protobuf.message import Message
from mo.payments.v1 import payments_pb2, payments_pb2_grpc

from mo_grpc.customers.messages import balance_after
from mo_grpc.customers.rules import RESOURCE as CUSTOMER
from mo_grpc.db.engine import Database
from mo_grpc.errors import FieldViolation, InvalidFields, ServiceError
from mo_grpc.idempotency.rules import IdempotencyKey, Keyed, Replay, make_key
from mo_grpc.idempotency.store import in_batches, remembering
from mo_grpc.idempotency.writer import Writer, request_key
from mo_grpc.journal.origin import origin
from mo_grpc.journal.past import Instant
from mo_grpc.journal.previews import PreviewedWriter, expected_number, previewed, put_token
from mo_grpc.journal.rules import Origin
from mo_grpc.payments import store
from mo_grpc.payments.explanations import Explanation, explain
from mo_grpc.payments.rules import RESOURCE, NewPayment, Payment, PaymentRejection
from mo_grpc.rpc.caller import caller, require_customer
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
        self._create = PreviewedWriter(database, store.create_payments, by_customer, to_message, message)
        self._bounce = PreviewedWriter(database, store.bounce_payments, by_id, to_message, message)
        response = payments_pb2.BatchCreatePaymentsResponse
        batches = in_batches(remembering(store.create_payments, to_message))
        self._create_batch = Writer(database, batches, None, batch_message, response, max_batch=1)
        self._preview_batch = database.writer(previewed(batches), None, max_batch=1)

    async def CreatePayment(self, request: payments_pb2.CreatePaymentRequest, context: Context) -> payments_pb2.Payment:
        key = request_key(request, context) or item_key(request)
        return await self._create(to_command(request, origin(request)), request, key, context)

    async def GetPayment(self, request: payments_pb2.GetPaymentRequest, context: Context) -> payments_pb2.Payment:
        payment = await self._find(request.external_id)
        if request.HasField("as_of"):
            instant = Instant.of(request.as_of)
            payment = await self._database.read(lambda c: store.payment_as_of(c, payment, instant))
        return to_message(payment)

    async def ListPayments(
        self, request: payments_pb2.ListPaymentsRequest, context: Context
    ) -> payments_pb2.ListPaymentsResponse:
        page, bound = PageRequest(request), caller().customers
        filters = (request.customer_external_id, request.loan_external_id, int(request.status))
        rows, more = await self._database.read(lambda c: store.list_payments(c, *filters, page.after, page.size, bound))
        token = page.next_token(rows[-1].id) if more else ""
        return payments_pb2.ListPaymentsResponse(payments=map(to_message, rows), next_page_token=token)

    async def RejectPayment(self, request: payments_pb2.RejectPaymentRequest, context: Context) -> payments_pb2.Payment:
        if caller().customers is not None:  # before it is locked; its customer never changes
            await self._find(request.external_id)
        command = PaymentRejection(request.external_id, request.reason, origin(request))
        return await self._bounce(command, request, request_key(request, context), context)

    async def ExplainPayment(
        self, request: payments_pb2.ExplainPaymentRequest, context: Context
    ) -> payments_pb2.PaymentExplanation:
        await self._find(request.external_id)
        return explanation_message(await self._database.write(lambda c: explain(c, request.external_id)))

    async def BatchCreatePayments(
        self, request: payments_pb2.BatchCreatePaymentsRequest, context: Context
    ) -> payments_pb2.BatchCreatePaymentsResponse:
        made_by = origin(request)
        items = tuple(to_item(item, f"requests[{index}].", made_by) for index, item in enumerate(request.requests))
        if request.validate_only:
            return await self._show_batch(items, request)
        return await self._create_batch(items, request_key(request, context), context)

    async def _show_batch(
        self, items: Sequence[Keyed[NewPayment] | ServiceError], request: payments_pb2.BatchCreatePaymentsRequest
    ) -> payments_pb2.BatchCreatePaymentsResponse:
        """Show what a batch would do, whatever idempotency keys its items have."""
        unkeyed = tuple(item._replace(idempotency=None) if isinstance(item, Keyed) else item for item in items)
        outcomes = await self._preview_batch(unkeyed)
        response = batch_message(outcomes)
        for outcome, item, result in zip(outcomes, request.requests, response.results, strict=True):
            if isinstance(outcome, Payment):
                put_token(result.payment, outcome, item)
        return response

    async def _find(self, external_id: str) -> Payment:
        payment = await self._get(external_id)
        require_customer(payment.customer_external_id, RESOURCE, external_id)
        return payment


def to_item(request: payments_pb2.CreatePaymentRequest, prefix: str, made_by: Origin) -> Keyed[NewPayment] | ServiceError:
    """The command of one item of a batch, or what is wrong with it."""
    try:
        validate(request, prefix=prefix)
        if request.validate_only:
            raise InvalidFields([FieldViolation(f"{prefix}validate_only", "is set on the batch, not on its items")])
        made_by = made_by._replace(expected=expected_number(request))
        return Keyed(to_command(request, made_by), item_key(request))
    except ServiceError as error:
        return error


def item_key(request: payments_pb2.CreatePaymentRequest) -> IdempotencyKey | None:
    """The idempotency key in a request itself; it is the same in a batch and in a call of its own."""
    if not request.idempotency_key:
        return None
    return make_key(caller().id, request.idempotency_key, CREATE_PAYMENT, request)


def to_command(request: payments_pb2.CreatePaymentRequest, made_by: Origin) -> NewPayment:
    """The command of a request that is valid.

    Raises:
        NotFound: the caller's key is bound to other customers.
    """
    payment = request.payment
    require_customer(payment.customer_external_id, CUSTOMER, payment.customer_external_id)
    return NewPayment(payment.external_id, payment.customer_external_id, parse_money(payment.total_amount), made_by)


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
        balance_after=balance_after(payment.customer_external_id, payment.recorded),
    )
    for detail in payment.details:
        message.payment_details.add(loan_external_id=detail.loan_external_id, amount=money(detail.amount))
    if payment.rejection_kind is not None:
        message.rejection.kind = payments_pb2.Payment.Rejection.Kind.ValueType(payment.rejection_kind)
        message.rejection.reason = payment.rejection_reason or ""
    return message


def explanation_message(explanation: Explanation) -> payments_pb2.PaymentExplanation:
    """An explanation, as a message."""
    payment, considered, restored = explanation
    message = payments_pb2.PaymentExplanation(
        external_id=payment.external_id,
        customer_external_id=payment.customer_external_id,
        total_amount=money(payment.total_amount),
        decided_at=timestamp(payment.created_at),
        decision=payments_pb2.Payment.REJECTED if payment.paid_at is None else payments_pb2.Payment.COMPLETED,
        active_debt=money(sum((each.loan.outstanding for each in considered), Decimal(0))),
    )
    for loan, amount, outcome in considered:
        message.considered_loans.add(
            loan_external_id=loan.external_id,
            taken_at=timestamp(loan.taken_at),
            outstanding_before=money(loan.outstanding),
            amount=money(amount),
            outstanding_after=money(loan.outstanding - amount),
            outcome=payments_pb2.PaymentExplanation.ConsideredLoan.Outcome.ValueType(outcome),
        )
    if restored is not None:
        message.bounce.MergeFrom(
            payments_pb2.PaymentExplanation.Bounce(
                bounced_at=timestamp(payment.rejected_at), reason=payment.rejection_reason or ""
            )
        )
        for change in restored:
            message.bounce.restored_loans.add(
                loan_external_id=change.external_id,
                outstanding_before=money(change.outstanding_before or Decimal(0)),
                amount=money(change.outstanding_after - (change.outstanding_before or Decimal(0))),
                outstanding_after=money(change.outstanding_after),
            )
    return message
