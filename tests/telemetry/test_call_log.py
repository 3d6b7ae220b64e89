"""The lines of the log about calls: of a server of these tests' own, whose log nobody else writes."""

import json
import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from mo.customers.v1.customers_pb2 import GetCustomerRequest

from mo_grpc.telemetry.call_log import GOOD_PER_SECOND, STRANGERS_PER_SECOND
from tests.conftest import Stack
from tests.databases import locked, owner, unwelcome, waiting
from tests.doors import GrpcDoor, Refused, RestDoor
from tests.factories import a_customer, a_loan, new_id, pay
from tests.servers import a_server
from tests.waiting import eventually

Line = dict[str, Any]
SLOW = 0.3


class Log:
    """What a server has logged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, event: str = "call") -> list[Line]:
        """All lines of an event."""
        return [line for each in self.path.read_text().splitlines() if (line := json.loads(each))["event"] == event]

    def of(self, door: GrpcDoor) -> Line:
        """The one line of the last call by a door, which is written before it is answered."""
        [line] = [line for line in self.lines() if line["request_id"] == door.request_id]
        return line


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log") / "serve.log")


@pytest.fixture(scope="module")
def channel(stack: Stack, log: Log) -> Iterator[grpc.Channel]:
    with (
        log.path.open("wb") as file,
        a_server(stack.environment, file, MO_LOG_LEVEL="info", MO_SLOW_CALL_SECONDS=str(SLOW)) as server,
    ):
        yield server.channel


@pytest.fixture
def door(channel: grpc.Channel, stack: Stack) -> GrpcDoor:
    return GrpcDoor(channel, (("x-api-key", stack.api_key),))


def key_id(stack: Stack) -> str:
    return stack.api_key.split("_")[1]


def test_a_call_has_a_line_that_says_what_was_called_by_whom_and_how_it_ended(door: GrpcDoor, log: Log, stack: Stack) -> None:
    named = GrpcDoor(door.channel, (*door.metadata, ("x-request-id", "shop-7:" + new_id("order"))))
    customer = a_customer(named)
    line = log.of(named)
    assert line.pop("timestamp")
    assert 0 < line.pop("duration_ms") < 10_000
    assert line == {
        "event": "call",
        "level": "info",
        "method": "/mo.customers.v1.CustomerService/CreateCustomer",
        "code": "OK",
        "caller": key_id(stack),
        "request_id": named.metadata[-1][1],
        "batch_size": 1,
        "worker": 0,
    }
    with pytest.raises(Refused):
        a_customer(named, external_id=customer)
    line = log.lines()[-1]
    assert (line["code"], line["reason"], line["level"]) == ("ALREADY_EXISTS", "CUSTOMER_ALREADY_EXISTS", "info")


def test_calls_that_ride_together_say_how_many_they_are(door: GrpcDoor, log: Log, stack: Stack) -> None:
    customer = a_customer(door)
    a_loan(door, customer)
    doors = [GrpcDoor(door.channel, door.metadata) for _ in range(5)]
    with ThreadPoolExecutor(5) as threads, locked(stack.data_dir, customer) as holder:
        first = threads.submit(pay, doors[0], customer, "1")
        eventually(lambda: waiting(holder) == 1, 10)
        calls = [first, *(threads.submit(pay, each, customer, "1") for each in doors[1:])]
        time.sleep(SLOW)  # to be slow takes time
        holder.rollback()
        for call in calls:
            call.result(30)
    sizes = sorted(log.of(each)["batch_size"] for each in doors)
    assert sum(1 / size for size in sizes) < len(sizes)
    assert sizes[0] == 1


def test_a_slow_call_is_a_warning_that_says_where_the_time_went(door: GrpcDoor, log: Log, stack: Stack) -> None:
    customer = a_customer(door)
    a_loan(door, customer)
    with ThreadPoolExecutor(1) as threads:
        with locked(stack.data_dir, customer) as holder:
            call = threads.submit(pay, door, customer, "1")
            eventually(lambda: waiting(holder) == 1, 10)
            time.sleep(SLOW)  # to be slow takes time
        call.result(30)
    line = log.of(door)
    assert (line["level"], line["code"]) == ("warning", "OK")
    parts = line["timing_ms"]
    assert parts["lock"] > SLOW * 1000 * 0.8
    assert {"queue", "pool", "lock", "decide", "write", "rest"} <= parts.keys()
    assert math.isclose(sum(parts.values()), line["duration_ms"], abs_tol=0.1)


def parts_of(server_timing: str) -> dict[str, float]:
    return {name: float(duration) for name, duration in re.findall(r"(\w+);dur=([0-9.]+)", server_timing)}


def test_who_asks_is_told_where_the_time_went_in_trailing_metadata(door: GrpcDoor) -> None:
    get = door.channel.unary_unary("/mo.customers.v1.CustomerService/GetCustomer", bytes, bytes)
    customer = a_customer(door)
    request = GetCustomerRequest(external_id=customer).SerializeToString()
    _, quiet = get.with_call(request, metadata=door.metadata)
    assert "server-timing" not in dict((*quiet.initial_metadata(), *quiet.trailing_metadata()))
    _, told = get.with_call(request, metadata=(*door.metadata, ("x-server-timing", "1")))
    parts = parts_of(str(dict(told.trailing_metadata())["server-timing"]))
    assert {"queue", "pool", "read", "rest"} == parts.keys()
    assert sum(parts.values()) > 0


def test_rest_has_it_as_a_header_of_answers_and_refusals(over_rest: RestDoor) -> None:
    asking = {**over_rest.headers, "x-server-timing": "1"}
    key, body = {"idempotency-key": new_id("key")}, {"external_id": new_id("customer"), "score": "1"}

    def post(**more: str) -> httpx.Response:
        return over_rest.client.post("/v1/customers", json=body, headers={**asking, **more})

    assert {"queue", "read", "write"} <= parts_of(post(**key).headers["server-timing"]).keys()
    refused = post()
    assert (refused.status_code, "read" in parts_of(refused.headers["server-timing"])) == (409, True)
    replayed = post(**key)
    assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (200, "true")


def test_a_call_that_gave_up_says_what_it_waited_for(door: GrpcDoor, log: Log, stack: Stack) -> None:
    customer = a_customer(door)
    hasty = GrpcDoor(door.channel, (*door.metadata, ("x-request-id", new_id("hasty"))), timeout=SLOW * 5)
    with locked(stack.data_dir, customer):
        with pytest.raises(Refused) as caught:
            pay(hasty, customer, "1")
        assert caught.value.code == 4

        def lines() -> list[Line]:
            return [line for line in log.lines() if line["request_id"] == hasty.metadata[-1][1]]

        eventually(lambda: bool(lines()), 10)
    [line] = lines()
    assert (line["level"], line["code"]) == ("warning", "DEADLINE_EXCEEDED")
    assert line["timing_ms"]["lock"] > SLOW * 1000


def test_a_fault_is_an_error_with_its_traceback_and_without_the_row(door: GrpcDoor, log: Log, stack: Stack) -> None:
    customer, score = new_id("customer"), "7654321.09"
    with owner(stack.data_dir) as connection, unwelcome(connection, customer), pytest.raises(Refused) as caught:
        a_customer(door, score, external_id=customer)
    assert caught.value.info["metadata"] == {"request_id": door.request_id}
    line = log.of(door)
    assert (line["level"], line["code"], line["reason"]) == ("error", "INTERNAL", "INTERNAL_ERROR")
    [stack_of_fault] = line["exception"]
    assert stack_of_fault["exc_type"] == "CheckViolation"
    assert "unwelcome" in stack_of_fault["exc_value"]
    assert len(stack_of_fault["frames"]) > 1
    assert customer not in log.path.read_text()
    assert score not in log.path.read_text()
    assert log.lines("call failed") == []


@pytest.mark.parametrize("method", ["/mo.Nothing/Get", "/mo.loans.v1.LoanService/GetLoan"])
def test_a_flood_of_refusals_is_counted(channel: grpc.Channel, log: Log, method: str) -> None:
    """Of callers whom nobody knows. They may invent any number of methods, too."""
    code = "UNAUTHENTICATED" if "GetLoan" in method else "UNIMPLEMENTED"
    call = channel.unary_unary(method, bytes, bytes)
    before, began, flood = seen(log, code), time.monotonic(), STRANGERS_PER_SECOND * 6
    for future in [call.future(b"") for _ in range(flood)]:
        assert future.code().name == code
    eventually(lambda: sum(seen(log, code)) == sum(before) + flood, 10)
    seconds = math.floor(time.monotonic() - began) + 2
    written = seen(log, code)[0] - before[0]
    assert 0 < written <= min(flood, STRANGERS_PER_SECOND * seconds)
    assert "mo.Nothing" not in log.path.read_text()


def seen(log: Log, code: str) -> tuple[int, int]:
    """How many calls were refused with a code: those that have a line, and those that were counted."""
    lines = [line for line in log.lines() if line["code"] == code]
    return len(lines), sum(line["codes"].get(code, 0) for line in log.lines("calls not logged"))


def test_of_many_good_calls_some_have_a_line(door: GrpcDoor, log: Log) -> None:
    before, began = len(log.lines()), time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        for call in [threads.submit(door, "customers.ListCustomers", page_size=1) for _ in range(GOOD_PER_SECOND * 8)]:
            call.result(30)
    seconds = math.floor(time.monotonic() - began) + 2
    assert GOOD_PER_SECOND <= len(log.lines()) - before <= GOOD_PER_SECOND * seconds


def test_checks_of_the_health_have_a_line_only_if_they_fail(channel: grpc.Channel, log: Log) -> None:
    def codes() -> set[str]:
        return {line["code"] for line in log.lines() if line["method"].startswith("/grpc.")}

    def fail() -> bool:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)(b"\n\x0amo.Nothing")
        return bool(codes())

    assert codes() == set(), "the server has been asked for its health at its start"
    eventually(fail, 10)  # a flood before may have used up the second's lines
    assert codes() == {"NOT_FOUND"}


@pytest.mark.parametrize("level", ["info", "warning"])
def test_good_calls_can_be_left_out_and_refusals_with_the_level(stack: Stack, tmp_path: Path, level: str) -> None:
    log = Log(tmp_path / "serve.log")
    settings = {"MO_LOG_LEVEL": level, "MO_LOG_CALLS_RATIO": "0", "MO_SLOW_CALL_SECONDS": "0"}
    with log.path.open("wb") as file, a_server(stack.environment, file, **settings) as server:
        door = GrpcDoor(server.channel, (("x-api-key", stack.api_key),))
        door("customers.ListCustomers", page_size=1)
        with pytest.raises(Refused):
            door("customers.GetCustomer", external_id=new_id("nobody"))
    assert [line["code"] for line in log.lines()] == (["NOT_FOUND"] if level == "info" else [])
