"""Checks a customer's events as anybody can who reads them: docs/events.md says how a hash is computed."""

import hashlib
from itertools import pairwise

from mo.customers.v1.customers_pb2 import Customer
from mo.loans.v1.loans_pb2 import Loan

from tests.doors import Json


def assert_chain(events: list[Json]) -> None:
    """Check that these are all events of a customer, in order and whole, and that each begins where the one before ended."""
    assert [int(event["number"]) for event in events] == list(range(1, len(events) + 1))
    last = bytes(32)
    for event in events:
        last = hashlib.sha256(last + _content(event).encode()).digest()
        assert event["hash"] == last.hex(), event
    loans: dict[str, tuple[str, str]] = {}
    for before, event in pairwise([{"recorded_at": "", "balance_after": None}, *events]):
        assert _time(before["recorded_at"]) <= _time(event["recorded_at"])
        assert before["balance_after"] == event.get("balance_before")
        for loan in event["loans"]:
            begin = (loan["status_before"], loan["outstanding_before"])
            assert begin == loans.get(loan["external_id"], ("STATUS_UNSPECIFIED", "0.00"))
            loans[loan["external_id"]] = (loan["status_after"], loan["outstanding_after"])
    owed = {name for name, (status, _) in loans.items() if status in ("PENDING", "ACTIVE")}
    debt = sum(int(outstanding.replace(".", "")) for name, (_, outstanding) in loans.items() if name in owed)
    assert events[-1]["balance_after"]["total_debt"] == f"{debt // 100}.{debt % 100:02}"


def _content(event: Json) -> str:
    before, after = event.get("balance_before"), event["balance_after"]
    lines = [
        event["customer_external_id"],
        event["number"],
        event["kind"],
        _time(event["recorded_at"]),
        event["actor"],
        event["request_id"],
        event["payment_external_id"],
        event["amount"],
        f"{before['score']} {before['total_debt']}" if before else "",
        f"{after['score']} {after['total_debt']}",
    ]
    if event["kind"] in ("CUSTOMER_CREATED", "CUSTOMER_CHANGED"):
        statuses = [str(int(Customer.Status.Value(event[name]))) for name in ("status_before", "status_after")]
        lines += [" ".join(statuses), _time(event.get("preapproved_at", ""))]
    for loan in event["loans"]:
        statuses = [str(int(Loan.Status.Value(loan[name]))) for name in ("status_before", "status_after")]
        lines.append(" ".join([loan["external_id"], *statuses, loan["outstanding_before"], loan["outstanding_after"]]))
    return "".join(f"{line}\n" for line in lines)


def _time(moment: str) -> str:
    """To the microsecond: JSON has 0, 3 or 6 digits."""
    seconds, _, fraction = moment.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<6}Z" if moment else ""
