"""PaymentService over the store of payments."""

from mo.payments.v1 import payments_pb2, payments_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.interceptors.validation import validate
from mo_grpc.payments import store
from mo_grpc.payments.rules import NewPayment, Payment, PaymentRejection
from mo_grpc.wire import money, page_size, page_token, parse_money, parse_page_token, timestamp

Result = payments_pb2.BatchCreatePaymentsResponse.Result


class PaymentServicer(payments_pb2_grpc.PaymentServiceServicer):
    """See `mo/payments/v1/payments.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def CreatePayment(self, request: payments_pb2.CreatePaymentRequest, context: object) -> payments_pb2.Payment:
        return to_message(await self._database.write_one(store.create_payments, to_command(request)))

    async def GetPayment(self, request: payments_pb2.GetPaymentRequest, context: object) -> payments_pb2.Payment:
        return to_message(await self._database.read_one(store.get_payments, request.external_id))

    async def ListPayments(
        self, request: payments_pb2.ListPaymentsRequest, context: object
    ) -> payments_pb2.ListPaymentsResponse:
        limit = page_size(request.page_size)
        filters = (request.customer_external_id, request.loan_external_id, int(request.status))
        before = parse_page_token(request.page_token, filters)
        page, more = await self._database.read(lambda c: store.list_payments(c, *filters, before, limit))
        return payments_pb2.ListPaymentsResponse(
            payments=map(to_message, page),
            next_page_token=page_token(page[-1].id, filters) if more else "",
        )

    async def RejectPayment(self, request: payments_pb2.RejectPaymentRequest, context: object) -> payments_pb2.Payment:
        command = PaymentRejection(request.external_id, request.reason)
        return to_message(await self._database.write_one(store.bounce_payments, command))

    async def BatchCreatePayments(
        self, request: payments_pb2.BatchCreatePaymentsRequest, context: object
    ) -> payments_pb2.BatchCreatePaymentsResponse:
        commands: dict[int, NewPayment] = {}
        outcomes: dict[int, Payment | ServiceError] = {}
        for index, item in enumerate(request.requests):
            try:
                validate(item, prefix=f"requests[{index}].")
                commands[index] = to_command(item)
            except ServiceError as error:
                outcomes[index] = error
        wanted = list(commands.values())
        taken = await self._database.write(lambda c: store.create_payments(c, wanted)) if wanted else []
        outcomes.update(zip(commands, taken, strict=True))
        results = (to_result(outcomes[index]) for index in range(len(request.requests)))
        return payments_pb2.BatchCreatePaymentsResponse(results=results)


def to_command(request: payments_pb2.CreatePaymentRequest) -> NewPayment:
    """The command of a request that has been checked."""
    payment = request.payment
    return NewPayment(payment.external_id, payment.customer_external_id, parse_money(payment.total_amount))


def to_result(outcome: Payment | ServiceError) -> Result:
    """What became of one item of a batch."""
    if isinstance(outcome, ServiceError):
        return Result(status=outcome.to_status())
    return Result(payment=to_message(outcome))


def to_message(payment: Payment) -> payments_pb2.Payment:
    """A stored payment, as the wire has it."""
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
