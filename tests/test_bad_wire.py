"""What no JSON can say: bytes that are no message, moments out of range, huge messages, deadlines, random nonsense."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mo.customers.v1 import customers_pb2
from mo.loans.v1 import loans_pb2

from tests.conftest import Stack
from tests.databases import locked
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor, method, refused
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, pay

RPCS = [
    f"{package}.{rpc.name}"
    for package, any_rpc in (("customers", "GetCustomer"), ("loans", "GetLoan"), ("payments", "GetPayment"))
    for rpc in method(f"{package}.{any_rpc}").containing_service.methods
]
# What a caller may hear who speaks nonsense: never INTERNAL, UNKNOWN or UNAVAILABLE.
CLEAR = {3, 5, 6, 9, 10}


def path(rpc: MethodDescriptor) -> str:
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


def send(door: GrpcDoor, name: str, content: bytes) -> bytes:
    """Send bytes as a message; raises what the service refuses."""
    try:
        call = door.channel.unary_unary(path(method(name)), lambda each: each, lambda each: each)
        return bytes(call(content, metadata=door.metadata, timeout=30))
    except grpc.RpcError as error:
        raise refused(error) from error


def outcome(door: GrpcDoor, name: str, content: bytes) -> int:
    """The status code that bytes lead to."""
    try:
        send(door, name, content)
    except Refused as error:
        return error.code
    return 0


@pytest.mark.parametrize("rpc", RPCS)
def test_bytes_that_are_no_message(over_grpc: GrpcDoor, rpc: str) -> None:
    for content in (b"\xff", b"\x00", b"\x12\xff", b"\x12\x05abc", b"\x07", b"\x0b" * 300):
        with pytest.raises(Refused) as caught:
            send(over_grpc, rpc, content)
        assert (caught.value.code, caught.value.reason) == (3, "MALFORMED_REQUEST"), content


@pytest.mark.parametrize("rpc", RPCS)
def test_an_empty_message(over_grpc: GrpcDoor, rpc: str) -> None:
    if rpc.partition(".")[2].startswith("List"):
        send(over_grpc, rpc, b"")  # a list without a filter
        return
    with pytest.raises(Refused) as caught:
        send(over_grpc, rpc, b"")
    assert (caught.value.code, caught.value.reason) == (3, "INVALID_FIELDS")
    assert caught.value.fields


def test_unknown_fields_are_ignored(over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    request = customers_pb2.GetCustomerRequest(external_id=customer).SerializeToString() + b"\xa0\x06\x01"
    assert customers_pb2.Customer.FromString(send(over_grpc, "customers.GetCustomer", request)).external_id == customer


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=253402300800),
        Timestamp(seconds=-62135596801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(nanos=-(2**31)),
        Timestamp(seconds=253402300799, nanos=2**31 - 1),
    ],
    ids=str,
)
def test_a_moment_out_of_range(over_grpc: GrpcDoor, moment: Timestamp) -> None:
    new_customer = customers_pb2.Customer(external_id=new_id("customer"), score="1", preapproved_at=moment)
    owner = a_customer(over_grpc)
    loan = loans_pb2.Loan(external_id=new_id("loan"), customer_external_id=owner, amount="1", maximum_payment_date=moment)
    update = customers_pb2.Customer(external_id=owner, preapproved_at=moment)
    requests: dict[str, tuple[Message, str]] = {
        "customers.CreateCustomer": (customers_pb2.CreateCustomerRequest(customer=new_customer), "preapproved_at"),
        "customers.UpdateCustomer": (customers_pb2.UpdateCustomerRequest(customer=update), "preapproved_at"),
        "loans.CreateLoan": (loans_pb2.CreateLoanRequest(loan=loan), "maximum_payment_date"),
    }
    for rpc, (request, field) in requests.items():
        with pytest.raises(Refused) as caught:
            send(over_grpc, rpc, request.SerializeToString())
        assert (caught.value.code, caught.value.reason) == (3, "INVALID_FIELDS"), rpc
        assert [name.removesuffix(".nanos").removesuffix(".seconds") for name in caught.value.fields] == [field]
    assert_missing(over_grpc, "customers.GetCustomer", new_customer.external_id)
    assert_missing(over_grpc, "loans.GetLoan", loan.external_id)
    assert "preapproved_at" not in over_grpc("customers.GetCustomer", external_id=owner)


def test_what_is_finer_than_a_microsecond_is_cut_off(over_grpc: GrpcDoor) -> None:
    moment = Timestamp(seconds=253402300798, nanos=999_999_999)
    sent = customers_pb2.Customer(external_id=new_id("customer"), score="1", preapproved_at=moment)
    send(over_grpc, "customers.CreateCustomer", customers_pb2.CreateCustomerRequest(customer=sent).SerializeToString())
    found = over_grpc("customers.GetCustomer", external_id=sent.external_id)
    assert found["preapproved_at"] == "9999-12-31T23:59:58.999999Z"


def assert_missing(door: Door, rpc: str, external_id: str) -> None:
    with pytest.raises(Refused) as caught:
        door(rpc, external_id=external_id)
    assert caught.value.code == 5


def test_a_message_over_the_limit(over_grpc: GrpcDoor) -> None:
    with pytest.raises(Refused) as caught:
        over_grpc("customers.GetCustomer", external_id="x" * 5 * 1024 * 1024)
    assert caught.value.code == 8  # RESOURCE_EXHAUSTED, gRPC's own
    with pytest.raises(Refused) as caught:
        over_grpc("customers.GetCustomer", external_id="x" * 3 * 1024 * 1024)
    assert caught.value.reason == "INVALID_FIELDS"


@pytest.mark.parametrize(
    "name", ["mo.loans.v1.LoanService/Nothing", "mo.loans.v1.LoanService/getloan", "mo.Nothing/GetLoan", ""]
)
def test_an_unknown_rpc(grpc_channel: grpc.Channel, stack: Stack, name: str) -> None:
    for metadata in ((), (("x-api-key", stack.api_key),)):
        with pytest.raises(grpc.RpcError) as one:
            grpc_channel.unary_unary(f"/{name}", bytes, bytes)(b"", metadata=metadata)
        with pytest.raises(grpc.RpcError) as many:
            list(grpc_channel.stream_stream(f"/{name}", bytes, bytes)(iter([b"1", b"2"]), metadata=metadata))
        for caught in (one, many):
            found = refused(caught.value)
            assert (found.code, found.reason) == (12, "RPC_NOT_FOUND")


@pytest.mark.parametrize("deadline", ["soon", "", "1", "-1S", "1.5S", "1s", "123456789S", "1S, 2S"])
def test_an_unreadable_deadline_is_refused_and_spoils_no_other_call(rest: httpx.Client, deadline: str) -> None:
    refused_ = rest.get("/v1/customers", headers={"grpc-timeout": deadline})
    assert (refused_.status_code, refused_.json()["code"]) == (400, 3)
    assert refused_.json()["details"][0]["reason"] == "MALFORMED_REQUEST"
    assert {rest.get("/v1/customers").status_code for _ in range(10)} == {200}


def test_a_call_past_its_deadline_changes_nothing(stack: Stack, door: Door, over_grpc: GrpcDoor, rest: httpx.Client) -> None:
    customer = a_customer(door)
    a_loan(door, customer, "10")
    paid = pay(door, customer, "1")["external_id"]
    pending = a_loan(door, customer, "10", activate=False)
    external_id = new_id("late")
    ours = {"external_id": external_id, "customer_external_id": customer}
    calls: list[tuple[str, Json]] = [
        ("loans.CreateLoan", {"loan": ours | {"amount": "1", "maximum_payment_date": SOME_DAY}}),
        ("loans.ActivateLoan", {"external_id": pending}),
        ("loans.RejectLoan", {"external_id": pending}),
        ("payments.CreatePayment", {"payment": ours | {"total_amount": "1"}}),
        ("payments.RejectPayment", {"external_id": paid, "reason": "No funds."}),
        ("customers.UpdateCustomer", {"customer": {"external_id": customer, "score": "7"}}),
    ]
    before = state(over_grpc, customer)
    with locked(stack.data_dir, customer):
        rest.headers["grpc-timeout"] = "200m"
        late = RestDoor(rest) if isinstance(door, RestDoor) else GrpcDoor(over_grpc.channel, over_grpc.metadata, timeout=0.2)
        for rpc, request in calls:
            with pytest.raises(Refused) as caught:
                late(rpc, **request)
            assert caught.value.code == 4
    with locked(stack.data_dir, customer):  # behind any that waited still
        pass
    assert state(over_grpc, customer) == before


def state(door: Door, customer: str) -> list[Json]:
    """All that there is of a customer."""
    return [
        door("customers.GetCustomer", external_id=customer),
        door("loans.ListLoans", customer_external_id=customer),
        door("payments.ListPayments", customer_external_id=customer),
    ]


def test_more_late_calls_than_connections_leave_the_service_well(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    late = GrpcDoor(over_grpc.channel, over_grpc.metadata, timeout=0.3)

    def lend(_: int) -> int:
        with pytest.raises(Refused) as caught:
            a_loan(late, customer, "1", activate=False)
        return caught.value.code

    with locked(stack.data_dir, customer), ThreadPoolExecutor(12) as threads:
        assert set(threads.map(lend, range(12))) == {4}
        assert a_customer(over_grpc)
    a_loan(over_grpc, customer, "1000")
    assert len(over_grpc("loans.ListLoans", customer_external_id=customer)["loans"]) == 1


@pytest.fixture(scope="module")
def fuzzed(stack: Stack) -> Iterator[GrpcDoor]:
    with grpc.insecure_channel(stack.grpc_address) as channel:
        yield GrpcDoor(channel, (("x-api-key", stack.api_key),))


@pytest.fixture(scope="module")
def fuzzed_rest(stack: Stack) -> Iterator[RestDoor]:
    with httpx.Client(base_url=stack.http_url, headers={"x-api-key": stack.api_key}, timeout=30) as client:
        yield RestDoor(client)


def fill(message: Message, text: str) -> None:
    """Put a text in every field that takes one, however deep."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = getattr(message, field.name)
            fill(inner.add() if field.is_repeated else inner, text)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).append(text)
            else:
                setattr(message, field.name, text)


some_text = st.one_of(
    st.text(max_size=80),
    st.text("0123456789.-+eE ", max_size=30),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,70}", fullmatch=True),
)
some_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), some_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["external_id", "score", "amount", "payment", "requests", "status"]), st.text(max_size=9)
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
few = settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(rpc=st.sampled_from(RPCS), text=some_text)
def test_random_text_in_every_field(fuzzed: GrpcDoor, rpc: str, text: str) -> None:
    request = GetMessageClass(method(rpc).input_type)()
    fill(request, text)
    assert outcome(fuzzed, rpc, request.SerializeToString()) in CLEAR | {0}


@few
@given(rpc=st.sampled_from(RPCS), content=st.binary(max_size=200))
def test_random_bytes_as_a_message(fuzzed: GrpcDoor, rpc: str, content: bytes) -> None:
    assert outcome(fuzzed, rpc, content) in CLEAR | {0}


@few
@given(content=st.one_of(st.text(max_size=80), some_json.map(json.dumps)))
def test_random_json(fuzzed_rest: RestDoor, content: str) -> None:
    for url in ("/v1/customers", "/v1/loans", "/v1/payments", "/v1/payments:batchCreate", "/v1/payments/x:reject"):
        answer = fuzzed_rest.client.post(url, content=content.encode("utf-8", "replace"))
        assert answer.status_code in {200, 400, 404, 409}, answer.text
