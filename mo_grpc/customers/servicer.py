"""CustomerService over the store of customers."""

import re
from operator import attrgetter

from google.protobuf.message import Message
from mo.customers.v1 import customers_pb2, customers_pb2_grpc

from mo_grpc.customers import store
from mo_grpc.customers.messages import balance_message
from mo_grpc.customers.rules import RESOURCE, Customer, CustomerChange, NewCustomer, etag
from mo_grpc.db.engine import Database
from mo_grpc.errors import CustomerNotAllowed, FieldViolation, InvalidFields
from mo_grpc.idempotency.writer import request_key
from mo_grpc.journal.origin import origin
from mo_grpc.journal.past import Instant
from mo_grpc.journal.previews import PreviewedWriter
from mo_grpc.rpc.caller import caller, require_customer
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, money, parse_money, timestamp
from mo_grpc.rpc.pages import PageRequest
from mo_grpc.rpc.validation import validate

_ETAG = re.compile(r'(W/)?"[!#-~]*"')

CHANGEABLE = ("score", "status", "preapproved_at")


class CustomerServicer(customers_pb2_grpc.CustomerServiceServicer):
    """See `mo/customers/v1/customers.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._get = database.reader(store.get_customers)
        self._get_balance = database.reader(store.get_balances)
        key, message = attrgetter("external_id"), customers_pb2.Customer
        self._create = PreviewedWriter(database, store.create_customers, key, to_message, message)
        self._change = PreviewedWriter(database, store.change_customers, key, to_message, message)

    async def CreateCustomer(self, request: customers_pb2.CreateCustomerRequest, context: Context) -> customers_pb2.Customer:
        customer = request.customer
        bound = caller().customers
        if bound is not None and not bound.allows(customer.external_id):
            raise CustomerNotAllowed(customer.external_id)
        preapproved_at = moment(customer.preapproved_at, "preapproved_at") if customer.HasField("preapproved_at") else None
        command = NewCustomer(customer.external_id, parse_money(customer.score), preapproved_at, origin(request))
        return await self._create(command, request, request_key(request, context), context)

    async def GetCustomer(self, request: customers_pb2.GetCustomerRequest, context: Context) -> customers_pb2.Customer:
        _require(request.external_id)
        customer = await self._get(request.external_id)
        if request.HasField("as_of"):
            instant = Instant.of(request.as_of)
            customer = await self._database.read(lambda c: store.customer_as_of(c, customer, instant))
        return to_message(customer)

    async def ListCustomers(
        self, request: customers_pb2.ListCustomersRequest, context: Context
    ) -> customers_pb2.ListCustomersResponse:
        page, bound = PageRequest(request), caller().customers
        found = await self._database.read(lambda c: store.list_customers(c, page.after, page.size + 1, bound))
        rows, token = page.cut(found, attrgetter("id"))
        return customers_pb2.ListCustomersResponse(customers=map(to_message, rows), next_page_token=token)

    async def UpdateCustomer(self, request: customers_pb2.UpdateCustomerRequest, context: Context) -> customers_pb2.Customer:
        heed_if_match(request, context)
        command = to_change(request)
        _require(command.external_id)
        return await self._change(command, request, request_key(request, context), context)

    async def GetCustomerBalance(
        self, request: customers_pb2.GetCustomerBalanceRequest, context: Context
    ) -> customers_pb2.CustomerBalance:
        _require(request.external_id)
        if request.HasField("as_of"):
            customer, instant = await self._get(request.external_id), Instant.of(request.as_of)
            return balance_message(await self._database.read(lambda c: store.balance_as_of(c, customer, instant)))
        return balance_message(await self._get_balance(request.external_id))


def _require(external_id: str) -> None:
    require_customer(external_id, RESOURCE, external_id)


def heed_if_match(request: customers_pb2.UpdateCustomerRequest, context: Context) -> None:
    """Use the HTTP header `If-Match` as the request's etag (RFC 9110, section 13.1.1); `*` matches any.

    Raises:
        InvalidFields: it is not one etag, or differs from that of the body.
    """
    sent = ",".join(str(value) for name, value in context.invocation_metadata() or () if name == "if-match").strip()
    if sent in ("", "*"):
        return
    if not _ETAG.fullmatch(sent):
        raise InvalidFields([FieldViolation("if-match", "must be one etag, as a customer has it, or *")])
    if request.customer.etag not in ("", sent):
        raise InvalidFields([FieldViolation("etag", "is another than that of the header If-Match")])
    request.customer.etag = sent


def to_message(customer: Customer) -> customers_pb2.Customer:
    """A stored customer, as a message."""
    return customers_pb2.Customer(
        external_id=customer.external_id,
        status=customers_pb2.Customer.Status.ValueType(customer.status),
        score=money(customer.score),
        preapproved_at=timestamp(customer.preapproved_at),
        created_at=timestamp(customer.created_at),
        updated_at=timestamp(customer.updated_at),
        etag=etag(customer),
    )


def to_change(request: customers_pb2.UpdateCustomerRequest) -> CustomerChange:
    """The command of an update, from the fields that the mask names; the others are not read (AIP-134).

    Raises:
        InvalidFields: a named field is wrong or may not be cleared, or there is nothing to change.
        InvalidArgument: the preview token is not one of this request.
    """
    sent = request.customer
    named = set(request.update_mask.paths) or {field.name for field, _ in sent.ListFields()} & set(CHANGEABLE)
    if "*" in named:
        named = set(CHANGEABLE)
    masked = customers_pb2.Customer(external_id=sent.external_id, etag=sent.etag)
    for name in named:
        _copy(sent, masked, name)
    required = ["external_id", *sorted(named & {"score", "status"})]
    violations = [FieldViolation(name, "is required") for name in required if not getattr(masked, name)]
    if not named:
        violations.append(FieldViolation("update_mask", "names nothing to change, and no field was sent"))
    if violations:
        raise InvalidFields(violations)
    validate(masked)
    values: dict[str, object] = {}
    if "score" in named:
        values["score"] = parse_money(masked.score)
    if "status" in named:
        values["status"] = masked.status
    if "preapproved_at" in named:
        values["preapproved_at"] = (
            moment(masked.preapproved_at, "preapproved_at") if masked.HasField("preapproved_at") else None
        )
    return CustomerChange(masked.external_id, masked.etag, values, origin(request))


def _copy(source: Message, target: Message, name: str) -> None:
    value = getattr(source, name)
    if not isinstance(value, Message):
        setattr(target, name, value)
    elif source.HasField(name):
        getattr(target, name).CopyFrom(value)
