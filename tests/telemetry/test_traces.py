"""Traces: what a receiver gets of calls, through the edge and directly, and what it must not get."""

import secrets
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Otlp

from tests.conftest import Stack, settings_environment
from tests.databases import owner
from tests.doors import GrpcDoor, Refused, RestDoor
from tests.factories import a_customer, a_loan, new_id, pay
from tests.telemetry.conftest import Behind, Traced
from tests.telemetry.receiver import Receiver, Span
from tests.waiting import eventually

SOON = 20
"""Seconds within which spans arrive; on a machine that is not busy, it takes half of one."""

PAYMENTS = "mo.payments.v1.PaymentService"


def traceparent(flags: str = "01") -> tuple[str, str, str]:
    """A header, its trace and its span."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-{flags}", trace, span


def within(door: GrpcDoor, header: str) -> GrpcDoor:
    return GrpcDoor(door.channel, (*door.metadata, ("traceparent", header)), door.timeout)


def calls(receiver: Receiver, method: str) -> list[Span]:
    """The spans of calls of a method, in their order."""
    found = [span for span in receiver.spans if span.service == "mo-grpc" and span.name.endswith(f"/{method}")]
    return sorted(found, key=lambda span: span.began)


def made(receiver: Receiver, method: str, do: Callable[[], object], number: int = 1) -> list[Span]:
    """The spans of so many calls of a method that are made meanwhile, once what was done for them is there, too."""
    known = {span.span_id for span in receiver.spans}
    do()

    def new() -> list[Span]:
        return [span for span in calls(receiver, method) if span.span_id not in known]

    def complete() -> bool:
        ids = {span.span_id for span in receiver.spans}
        return len(new()) >= number and all(link.span_id in ids for span in new() for link in span.links)

    eventually(complete, SOON)
    return new()


def below(spans: list[Span], parent: Span) -> list[Span]:
    return sorted((span for span in spans if span.parent_id == parent.span_id), key=lambda span: (span.began, span.ended))


def test_a_payment_over_rest_is_one_trace_from_the_edge_to_the_commit(all_traced: Behind) -> None:
    receiver = all_traced.receiver
    customer = a_customer(all_traced.rest)
    a_loan(all_traced.rest, customer)
    [call] = made(receiver, "CreatePayment", lambda: pay(all_traced.rest, customer, "12.34"))
    eventually(lambda: any(span.span_id == call.parent_id for span in receiver.spans), SOON)
    spans = receiver.trace(call.trace_id)
    [edge] = [span for span in spans if not span.parent_id]
    assert (edge.service, edge.name, edge.kind) == ("mo-edge", "edge rest-post", Otlp.SPAN_KIND_SERVER)
    assert below(spans, edge) == [call]
    assert (call.name, call.kind, call.failed) == (f"{PAYMENTS}/CreatePayment", Otlp.SPAN_KIND_SERVER, False)
    method = {"rpc.system": "grpc", "rpc.service": PAYMENTS, "rpc.method": "CreatePayment"}
    assert call.attributes == method | {"rpc.grpc.status_code": 0}
    [batch] = below(spans, call)
    assert batch.name == "batch CreatePayment"
    assert [link.span_id for link in call.links] == [batch.span_id]
    assert [link.span_id for link in batch.links] == [call.span_id]
    pool, read, decide, write = phases = below(spans, batch)
    assert [phase.name for phase in phases] == ["pool", "read", "decide", "write"]
    assert below(spans, pool) == below(spans, decide) == []
    [first], [second] = below(spans, read), below(spans, write)
    sent = [str(trip.attributes["db.query.summary"]).split("; ") for trip in (first, second)]
    assert sent[0][0] == "BEGIN"
    assert sent[1] == ["INSERT payments, INSERT payment_details, UPDATE loans", "INSERT journal_events", "COMMIT"]
    assert batch.attributes == {"mo.calls": 1, "mo.round_trips": 2, "mo.statements": len(sent[0] + sent[1]) - 2}
    # Each within the one above it. The edge's clock is the same, but it counts microseconds.
    for inner, outer in [(batch, call), *((phase, batch) for phase in phases), (first, read), (second, write)]:
        assert outer.began <= inner.began < inner.ended <= outer.ended
    assert edge.milliseconds > call.milliseconds > batch.milliseconds


def test_calls_that_ride_together_are_all_linked_with_their_batch(all_traced: Behind) -> None:
    customers = [a_customer(all_traced.direct) for _ in range(8)]
    for customer in customers:
        a_loan(all_traced.direct, customer)

    def pay_together() -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda customer: pay(all_traced.direct, customer, "1.00"), customers * 4))

    paid = made(all_traced.receiver, "CreatePayment", pay_together, 32)
    batches = {span.span_id: span for span in all_traced.receiver.spans if span.name == "batch CreatePayment"}
    assert len({call.trace_id for call in paid}) == len(paid) == 32
    ridden = {call.span_id: [batches[link.span_id] for link in call.links] for call in paid}
    assert {len(each) for each in ridden.values()} == {1}
    together = [batch for [batch] in ridden.values() if batch.attributes["mo.calls"] > 1]
    assert together
    for batch in together:
        riders = [link.span_id for link in batch.links]
        assert len(riders) == batch.attributes["mo.calls"]
        assert batch.parent_id == riders[0]
        assert all(ridden[rider] == [batch] for rider in riders)
    assert all(link.attributes["mo.waited_seconds"] >= 0 for call in paid for link in call.links)


def test_a_list_is_a_transaction_with_a_span_for_each_statement(all_traced: Behind) -> None:
    [call] = made(all_traced.receiver, "ListPayments", lambda: all_traced.direct("payments.ListPayments", page_size=1))
    spans = all_traced.receiver.trace(call.trace_id)
    [transaction] = below(spans, call)
    assert (transaction.name, transaction.attributes["mo.statements"]) == ("transaction ListPayments", 2)
    pool, ran = below(spans, transaction)
    statements = below(spans, ran)
    assert (pool.name, ran.name) == ("pool", "statements")
    assert [span.name for span in statements] == ["SELECT payments", "SELECT payment_details"]
    assert {(span.kind, span.attributes["db.system.name"]) for span in statements} == {(Otlp.SPAN_KIND_CLIENT, "postgresql")}


def test_what_waits_for_a_lock_says_so_and_what_gives_up_has_failed(all_traced: Behind, stack: Stack) -> None:
    customer = a_customer(all_traced.direct)
    change = {"customer": {"external_id": customer, "score": "5"}, "update_mask": "score"}

    def change_twice() -> None:
        hurried = GrpcDoor(all_traced.direct.channel, all_traced.direct.metadata, timeout=0.3)
        with ThreadPoolExecutor() as threads, owner(stack.data_dir) as connection:
            connection.execute("SELECT FROM customers WHERE external_id = %s FOR UPDATE", (customer,))
            patient = threads.submit(all_traced.direct, "customers.UpdateCustomer", **change)
            with pytest.raises(Refused) as refused:
                hurried("customers.UpdateCustomer", **change)
            assert refused.value.code == 4
            connection.rollback()
            patient.result()

    changed = made(all_traced.receiver, "UpdateCustomer", change_twice, 2)
    waited, gave_up = sorted(changed, key=lambda call: call.failed)
    assert (waited.failed, waited.attributes["rpc.grpc.status_code"]) == (False, 0)
    assert (gave_up.failed, gave_up.attributes["rpc.grpc.status_code"]) == (True, 4)
    spans = all_traced.receiver.trace(waited.trace_id)
    assert "lock" in [phase.name for batch in below(spans, waited) for phase in below(spans, batch)]


def test_a_client_of_the_edge_chooses_neither_trace_nor_sampling(all_traced: Behind) -> None:
    customer = a_customer(all_traced.rest)
    header, trace, _ = traceparent("00")
    door = RestDoor(all_traced.rest.client, {"traceparent": header, "tracestate": "a=b"})
    [call] = made(all_traced.receiver, "GetCustomer", lambda: door("customers.GetCustomer", external_id=customer))
    assert call.trace_id != trace


def test_the_call_of_a_direct_client_is_in_its_trace_but_it_has_no_say(all_traced: Behind) -> None:
    header, trace, span = traceparent("00")

    def ask() -> None:
        with pytest.raises(Refused):
            within(all_traced.direct, header)("loans.GetLoan", external_id="no-such-loan")

    [call] = made(all_traced.receiver, "GetLoan", ask)
    assert (call.trace_id, call.parent_id) == (trace, span)
    # What is the caller's mistake is no failure of the service.
    assert (call.attributes["rpc.grpc.status_code"], call.attributes["error.type"]) == (5, "LOAN_NOT_FOUND")
    assert not call.failed


@pytest.mark.parametrize("ratio", [0, 1])
def test_the_edge_decides_which_of_its_calls_are_traced(ratio: int, request: pytest.FixtureRequest) -> None:
    traced: Traced = request.getfixturevalue("all_traced" if ratio else "none_traced")
    wanted, trace, span = traceparent("01")
    others = [traceparent("00"), traceparent("02")]
    headers = [*(header for header, _, _ in others), wanted.replace(trace, "x"), wanted]

    def ask() -> None:
        for header in headers:
            within(traced.private, header)("payments.ListPayments", page_size=1)

    # Spans are sent in the order of their ends, so no other one is still to come.
    [call] = made(traced.receiver, "ListPayments", ask)
    assert (call.trace_id, call.parent_id) == (trace, span)


def test_nobody_else_can_have_a_call_traced(none_traced: Traced) -> None:
    forced, _, _ = traceparent()
    wanted, trace, _ = traceparent()

    def ask() -> None:
        within(none_traced.direct, forced)("payments.ListPayments", page_size=1)
        none_traced.private("payments.ListPayments", page_size=1)
        within(none_traced.private, wanted)("payments.ListPayments", page_size=1)

    assert [call.trace_id for call in made(none_traced.receiver, "ListPayments", ask)] == [trace]


def test_spans_say_nothing_of_customers_money_or_keys(all_traced: Behind, stack: Stack) -> None:
    rest, direct, receiver = all_traced.rest, all_traced.direct, all_traced.receiver
    customer = a_customer(rest, "86420.97", external_id=new_id("mrs-dalloway"))
    loan = a_loan(rest, customer, "7531.42", external_id=new_id("house-in-westminster"))
    paid = pay(rest, customer, "4444.17", external_id=new_id("for-the-flowers"))["external_id"]
    for door in (rest, direct):
        with pytest.raises(Refused) as refused:
            pay(door, customer, "1.00", external_id=paid)
        assert paid in refused.value.message
        with pytest.raises(Refused):
            a_loan(door, customer, "99999.31")
        door("payments.ListPayments", customer_external_id=customer)
        door("payments.GetPayment", external_id=paid)
    direct("payments.RejectPayment", external_id=paid, reason="Bounced at Septimus Bank")
    for path in (f"/v1/nothing/{customer}", f"/healthz?{loan}", f"/grappelli/customers/{customer}"):
        rest.client.get(path, headers={"user-agent": "Clarissa/1.0"})
    made(receiver, "GetCustomer", lambda: rest("customers.GetCustomer", external_id=customer))
    eventually(lambda: any(span.name == "edge web" for span in receiver.spans), SOON)
    everything = "\n".join(map(str, receiver.requests))
    ids, amounts = [customer, loan, paid], ["86420.97", "7531.42", "4444.17", "99999.31"]
    assert [text for text in (*ids, *amounts, "Septimus", "Clarissa", stack.api_key) if text in everything] == []
    assert {"CreateCustomer", "CreateLoan", "RejectPayment"} <= {
        str(span.attributes.get("rpc.method")) for span in receiver.spans
    }


def test_spans_name_their_service_and_process_and_no_host(all_traced: Behind) -> None:
    made(all_traced.receiver, "ListPayments", lambda: all_traced.rest("payments.ListPayments", page_size=1))
    resources = [of.resource for request in all_traced.receiver.requests for of in request.resource_spans]
    names = {pair.key for resource in resources for pair in resource.attributes}
    assert {name for name in names if not name.startswith("telemetry.sdk")} == {
        "service.name",
        "service.version",
        "service.instance.id",
    }


WITHOUT_THE_LIBRARY = """
import sys
sys.modules["opentelemetry"] = None
import mo_grpc.server.serve
from mo_grpc.cli.app import main
main()
"""


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_server_needs_the_library_for_traces_alone_and_says_so(command: str, stack: Stack, tmp_path: Path) -> None:
    ours = settings_environment(tmp_path, MO_DATABASE_URL=stack.database_url, MO_TRACES_ENDPOINT="http://localhost")
    environment = ours | {"SECRET_KEY": stack.environment["SECRET_KEY"]}
    program = [sys.executable, "-c", WITHOUT_THE_LIBRARY, command]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "opentelemetry is not installed: `pip install 'mo-grpc[traces]'` brings it.\n"


def test_an_edge_traces_nothing_unless_it_is_told_to(stack: Stack) -> None:
    assert "opentelemetry" not in stack.cli("edge", "--print").stdout
