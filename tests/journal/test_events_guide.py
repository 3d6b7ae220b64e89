"""docs/events.md: its programs and commands are run as they are written."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import grpc
import pytest
from mo.journal.v1 import journal_pb2
from mo.journal.v1.journal_pb2 import WatchEventsRequest
from mo.journal.v1.journal_pb2_grpc import JournalServiceStub
from mo.loans.v1.loans_pb2 import Loan

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import GrpcDoor
from tests.factories import a_customer, a_loan, pay
from tests.journal.reading import settle
from tests.repository import ROOT

GUIDE = (ROOT / "docs/events.md").read_text(encoding="utf-8").partition("\n## Webhooks\n")[0]
FOLLOW, VERIFY = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def customer(over_grpc: GrpcDoor, stack: Stack) -> str:
    """A customer with events of every kind."""
    customer = a_customer(over_grpc, preapproved_at="2026-03-01T09:30:00.5Z")
    for amount in ("100.00", "50.00"):
        a_loan(over_grpc, customer, amount)
    over_grpc("loans.RejectLoan", external_id=a_loan(over_grpc, customer, "10.00", activate=False))
    paid = pay(over_grpc, customer, "120.00")["external_id"]
    pay(over_grpc, customer, "1000.00")
    over_grpc("payments.RejectPayment", external_id=paid, reason="bounced")
    over_grpc("customers.UpdateCustomer", customer={"external_id": customer, "score": "500", "status": "INACTIVE"})
    settle(stack)
    return customer


def verify(stack: Stack) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"KEY": stack.api_key, "URL": stack.http_url}
    return subprocess.run([sys.executable, "-c", VERIFY], env=environment, capture_output=True, text=True, check=False)


@contextmanager
def changed(stack: Stack, customer: str, setting: str) -> Iterator[None]:
    """Somebody who owns the database changes a customer's payment, for a while."""
    where = "WHERE kind = 7 AND customer_id = (SELECT id FROM customers WHERE external_id = %s)"
    with owner(stack.data_dir) as connection:
        connection.autocommit = True
        connection.execute("CREATE TABLE kept AS SELECT * FROM journal_events " + where, [customer])
        try:
            connection.execute(f"UPDATE journal_events SET {setting} {where}".encode(), [customer])
            yield
        finally:
            connection.execute(("DELETE FROM journal_events " + where).encode(), [customer])
            connection.execute("INSERT INTO journal_events SELECT * FROM kept")
            connection.execute("DROP TABLE kept")


def test_the_program_of_the_guide_verifies_the_hash_chain(stack: Stack, customer: str) -> None:
    done = verify(stack)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("are as they were written\n")
    for setting in ("amount = amount + 1", "request_id = 'x'", "recorded_at = recorded_at + interval '1 microsecond'"):
        with changed(stack, customer, setting):
            done = verify(stack)
        assert (done.returncode, "is wrong" in done.stderr) == (1, True), setting
    assert verify(stack).returncode == 0


def test_the_commands_of_the_guide_show_events(stack: Stack, customer: str) -> None:
    shown = [command for command in COMMANDS if command.startswith("curl")]
    assert len(shown) == 5
    for command in shown:
        ours = command.replace("http://127.0.0.1:8080", stack.http_url).replace("=ana", f"={customer}")
        environment = os.environ | {"KEY": stack.api_key}
        with subprocess.Popen(["sh", "-c", f"exec {ours}"], env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                assert any('"kind":' in line for line in process.stdout), command
            finally:
                process.kill()


class DoneError(Exception):
    """All that is wanted has been read."""


class Books:
    """What a reader of events knows of customers, rebuilt from what each event changed."""

    def __init__(self) -> None:
        self.position = 0
        self.scores: dict[str, Decimal] = {}
        self.outstanding: dict[str, dict[str, Decimal]] = {}

    def balance(self, customer: str) -> tuple[Decimal, Decimal]:
        return self.scores[customer], sum(self.outstanding[customer].values(), Decimal("0.00"))

    def apply(self, event: journal_pb2.Event) -> None:
        customer, after = event.customer_external_id, event.balance_after
        self.scores[customer] = Decimal(after.score)
        loans = self.outstanding.setdefault(customer, {})
        for loan in event.loans:
            owed = loan.status_after in (Loan.PENDING, Loan.ACTIVE)
            loans[loan.external_id] = Decimal(loan.outstanding_after) if owed else Decimal(0)
        assert self.balance(customer) == (Decimal(after.score), Decimal(after.total_debt)), event
        self.position = event.position


def follow(stack: Stack, channel: grpc.Channel, key: str, last: int) -> Books:
    """Run the loop of the guide up to a position."""
    books = Books()

    def apply(event: journal_pb2.Event) -> None:
        books.apply(event)
        if event.position == last:
            raise DoneError

    names: dict[str, Any] = {"apply": apply, "load_position": lambda: 0, "key": key, "grpc": grpc, "time": time}
    names |= {"journal": JournalServiceStub(channel), "WatchEventsRequest": WatchEventsRequest}
    with pytest.raises(DoneError):
        exec(compile(FOLLOW, "docs/events.md", "exec"), names)  # noqa: S102 - our own
    return books


def test_a_reader_from_the_first_position_rebuilds_every_balance(stack: Stack, over_grpc: GrpcDoor, new_key: Any) -> None:
    """Of a year of the demo."""
    stack.cli("demo", "--customers", "8", "--seed", "7907", "--until", "2025-03-31")
    key = new_key("--scope", "events:read", "--customer-prefix", "demo-7907-")
    with owner(stack.data_dir) as connection:
        settle(stack)
        [(last,)] = connection.execute(
            """SELECT max(position) FROM journal_positions WHERE customer_id IN
            (SELECT id FROM customers WHERE external_id LIKE 'demo-7907-%%')"""
        ).fetchall()
    books = follow(stack, over_grpc.channel, key, last)
    assert len(books.scores) == 8
    for customer in books.scores:
        found = over_grpc("customers.GetCustomerBalance", external_id=customer)
        assert books.balance(customer) == (Decimal(found["score"]), Decimal(found["total_debt"])), customer
