"""Makes customers, loans and payments through a public door, each with an id of its own."""

import itertools
import re
import uuid
from pathlib import Path
from typing import Any

from tests.doors import Door, Json
from tests.rpcs import BY_ID

_run = uuid.uuid4().hex[:8]
_count = itertools.count(1)

SOME_DAY = "2099-06-30T00:00:00Z"


def new_id(kind: str) -> str:
    """An id that no other test has."""
    return f"{kind}-{_run}-{next(_count)}"


def named_in(folder: Path) -> list[str]:
    """Lines of the logs in a folder that name what was made here; Envoy's, which has the addresses of calls, is left out."""
    logs = [path for path in folder.glob("*.log") if path.name != "edge.log"]
    return [
        line for path in logs for line in path.read_text(errors="replace").splitlines() if re.search(f"-{_run}-[0-9]", line)
    ]


def a_customer(door: Door, score: str = "1000.00", **fields: Any) -> str:
    """Create a customer; answers its id."""
    customer = {"external_id": new_id("customer"), "score": score} | fields
    return str(door("customers.CreateCustomer", customer=customer)["external_id"])


def a_loan(door: Door, customer: str, amount: str = "100.00", *, activate: bool = True, **fields: Any) -> str:
    """Create a loan, ACTIVE unless told otherwise; answers its id."""
    loan = {
        "external_id": new_id("loan"),
        "customer_external_id": customer,
        "amount": amount,
        "maximum_payment_date": SOME_DAY,
    }
    external_id = str(door("loans.CreateLoan", loan=loan | fields)["external_id"])
    if activate:
        door("loans.ActivateLoan", external_id=external_id)
    return external_id


def pay(door: Door, customer: str, total_amount: str, **fields: Any) -> Json:
    """Make a payment; answers it."""
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": total_amount}
    return door("payments.CreatePayment", payment=payment | fields)


def stored(answer: Json) -> Json:
    """The answer of a change as reads have it, without the balance right after it."""
    assert answer["balance_after"]
    return {name: value for name, value in answer.items() if name != "balance_after"}


def outstanding(door: Door, loan: str) -> tuple[str, str]:
    """A loan's outstanding amount and status."""
    found = door("loans.GetLoan", external_id=loan)
    return found["outstanding"], found["status"]


def mutation(door: Door, rpc: str) -> Json:
    """A request for one of `MUTATIONS`, ready to take effect on a customer that no other test has."""
    if rpc == "customers.CreateCustomer":
        return {"customer": {"external_id": new_id("customer"), "score": "1"}}
    customer = a_customer(door, "10000")
    if rpc == "customers.UpdateCustomer":
        return {"customer": {"external_id": customer, "score": "20000"}}
    if rpc == "loans.CreateLoan":
        loan = {"external_id": new_id("loan"), "customer_external_id": customer, "amount": "5"}
        return {"loan": loan | {"maximum_payment_date": SOME_DAY}}
    if rpc in BY_ID and rpc.startswith("loans."):
        return {"external_id": a_loan(door, customer, activate=False)}
    a_loan(door, customer)
    if rpc == "payments.RejectPayment":
        return {"external_id": pay(door, customer, "1.00")["external_id"], "reason": "bounced"}
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "2.00"}
    if rpc == "payments.CreatePayment":
        return {"payment": payment}
    assert rpc == "payments.BatchCreatePayments", f"{rpc} needs a request here"
    return {"requests": [{"payment": payment}, {"payment": payment | {"external_id": new_id("payment")}}]}
