"""Clients that call at once, about two customers, and what each of them saw."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from math import inf
from random import Random
from typing import Any, Protocol

import httpx

from tests.doors import Door, Json
from tests.journal import reading
from tests.journal.chain import assert_chain
from tests.model import answers
from tests.model.calls import Call, Maker
from tests.model.laboratory import BEGIN
from tests.model.linear import Operation
from tests.model.requests import Outcome
from tests.waiting import eventually

CLIENTS = ("grpc", "grpc", "grpc", "rest", "rest")
CALLS = 8
"""Those of each client."""

_UNKNOWN = (1, 4, 13, 14)
"""CANCELLED, DEADLINE_EXCEEDED, INTERNAL and UNAVAILABLE: whether the call took effect is not known."""
_NOTHING_DONE = ("IDEMPOTENCY_KEY_IN_FLIGHT", "CONFLICT", "OVERLOADED")


class Called(Protocol):
    """A service that a crowd calls."""

    def door(self, kind: str) -> AbstractContextManager[Door]: ...

    def wait_until_ready(self) -> None: ...

    def settled(self) -> bool: ...


class Crowd:
    """One history. Ids and idempotency keys belong to one of the two customers, so that each can be checked alone."""

    def __init__(self, service: Called, name: str, rng: Random) -> None:
        self._service = service
        self._rng = rng
        self.customers = [f"{name}-a", f"{name}-b"]
        self.operations: list[Operation] = []
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def run(self, fault: Callable[[Random], None] | None) -> None:
        """Let the clients call, break something meanwhile, and look at the end at all there is."""
        with self._service.door("grpc") as door:
            for customer in self.customers:
                self._begin(door, customer)
            begun = len(self.operations)
            seeds = [self._rng.getrandbits(64) for _ in CLIENTS]
            with ThreadPoolExecutor(len(CLIENTS)) as threads:
                clients = [threads.submit(self._client, *pair) for pair in zip(CLIENTS, seeds, strict=True)]
                if fault:
                    made = begun + self._rng.randint(3, CALLS * len(CLIENTS) // 2)
                    eventually(lambda: len(self.operations) >= made, 60)
                    fault(self._rng)
                for client in clients:
                    client.result()
            if fault:
                self._service.wait_until_ready()
            eventually(self._service.settled, 30)
            for customer in self.customers:
                self._end(door, customer)

    def of(self, customer: str) -> list[Operation]:
        """What the clients saw of one customer; what a batch did for the other is left out."""
        return [part for operation in self.operations if (part := _part(operation, customer))]

    def _begin(self, door: Door, customer: str) -> None:
        due = BEGIN + timedelta(days=36500)
        self._make(door, "customers.CreateCustomer", {"customer": {"external_id": customer, "score": "300"}})
        for number, amount in enumerate(["100", "33.33", "20"]):
            loan = {"external_id": f"{customer}-l{number}", "customer_external_id": customer, "amount": amount}
            self._make(door, "loans.CreateLoan", {"loan": loan | {"maximum_payment_date": due}})
        for number in (1, 0):
            self._make(door, "loans.ActivateLoan", {"external_id": f"{customer}-l{number}"})

    def _client(self, kind: str, seed: int) -> None:
        rng = Random(seed)  # noqa: S311 - not a secret
        maker = Maker(rng, wrong=0)
        with self._service.door(kind) as door:
            for _ in range(CALLS):
                call = maker.change() if rng.random() < 0.8 else maker.read()
                if call.rpc == "customers.ListCustomers":
                    continue
                request, key = self._owned(call, rng)
                # A client repeats a call of which it does not know the outcome, if it has given it a key.
                while self._make(door, call.rpc, request, key) is None:
                    self._service.wait_until_ready()
                    if not key:
                        break

    def _owned(self, call: Call, rng: Random) -> tuple[Json, str]:
        """The request about one of the two customers, or items of a batch about both."""
        if "requests" in call.request:
            items = [_of_customer(item, rng.choice(self.customers)) for item in call.request["requests"]]
            return call.request | {"requests": items}, ""
        customer = rng.choice(self.customers)
        key = f"{customer}-{call.key}" if call.key else ""
        request: Json = _of_customer(call.request, customer)
        if call.rpc in ("loans.ListLoans", "payments.ListPayments"):
            request["customer_external_id"] = customer
        if call.rpc == "loans.CreateLoan":
            request["loan"]["maximum_payment_date"] = BEGIN + timedelta(days=36500)
        return request, key

    def _make(self, door: Door, rpc: str, request: Json, key: str = "") -> Outcome | None:
        """Make a call and note when it began and ended, and its outcome, if that is known."""
        began = time.monotonic() - self._start
        outcome: Outcome | None = None
        with suppress(httpx.TransportError):
            outcome = answers.call(door.keyed(key) if key else door, rpc, request)
        ended = time.monotonic() - self._start
        if outcome and outcome.code in _UNKNOWN:
            outcome = None
        self._note(Operation(began, ended if outcome else inf, rpc, request, outcome, key))
        return outcome

    def _note(self, operation: Operation) -> None:
        with self._lock:
            self.operations.append(operation)

    def _end(self, door: Door, customer: str) -> None:
        self._make(door, "customers.GetCustomerBalance", {"external_id": customer})
        for rpc in ("loans.ListLoans", "payments.ListPayments"):
            self._make(door, rpc, {"customer_external_id": customer})
        now = time.monotonic() - self._start
        events = reading.events(door, customer_external_id=customer)
        assert_chain(events)
        outcome = Outcome(0, {"events": answers.plain(events)})
        self._note(Operation(now, now, "journal.ListEvents", {"customer_external_id": customer}, outcome))


def _of_customer(value: Any, customer: str) -> Any:
    if isinstance(value, dict):
        return {name: _of_customer(item, customer) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if re.fullmatch("c[0-9]+", value):
        return customer
    return f"{customer}-{value}" if re.fullmatch("[lpik][0-9]+", value) else value


def _part(operation: Operation, customer: str) -> Operation | None:
    """What an operation says of a customer; None if it says nothing."""
    if operation.rpc == "payments.BatchCreatePayments":
        return _items(operation, customer)
    mentioned = customer in str(operation.request)
    nothing_done = operation.outcome and operation.outcome.content.get("reason") in _NOTHING_DONE
    no_effect = operation.outcome is None and (
        operation.request.get("validate_only") or operation.rpc.split(".")[1][:3] in ("Get", "Lis", "Exp")
    )
    return None if not mentioned or nothing_done or no_effect else operation


def _items(operation: Operation, customer: str) -> Operation | None:
    """The items of a batch that are of a customer, without those that were told to wait."""
    items = operation.request["requests"]
    results: Iterable[Json | None] = operation.outcome.content.get("results", ()) if operation.outcome else [None] * len(items)
    kept = [pair for pair in zip(items, results, strict=False) if customer in str(pair[0]) and not _waits(pair[1])]
    if not kept or (operation.outcome is None and operation.request.get("validate_only")):
        return None
    outcome = operation.outcome and operation.outcome._replace(content={"results": [result for _, result in kept]})
    return operation._replace(request=operation.request | {"requests": [item for item, _ in kept]}, outcome=outcome)


def _waits(result: Json | None) -> bool:
    return bool(result and result.get("status", {}).get("reason") in _NOTHING_DONE)


def told_to_wait(operations: Iterable[Operation]) -> Iterator[Operation]:
    """The calls that were told that the first call with their key still runs."""
    for operation in operations:
        if operation.outcome and operation.outcome.content.get("reason") == "IDEMPOTENCY_KEY_IN_FLIGHT":
            yield operation
