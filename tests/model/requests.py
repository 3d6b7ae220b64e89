"""What a call is: a request, which is JSON as REST has it, what comes with it, and its outcome.

What makes a request valid is in docs/rules.md, R2 to R4, R16, R40 and R43.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

Json = dict[str, Any]

OPTIONS = ("validate_only", "preview_token", "idempotency_key")
IDS = ("external_id", "customer_external_id", "loan_external_id")
CHANGEABLE = ("score", "status", "preapproved_at")


class Told(NamedTuple):
    """What a call has beside its request: the time at which it is decided, its idempotency key, and who calls."""

    now: datetime
    key: str = ""
    caller: str = ""


class Outcome(NamedTuple):
    """An answer, with the code 0, or a refusal."""

    code: int
    content: Json
    replayed: bool = False


class Refusal(Exception):
    """A refusal, by its status code, reason and metadata."""

    def __init__(self, code: int, reason: str, **content: Any) -> None:
        super().__init__(reason)
        self.outcome = Outcome(code, {"reason": reason, "metadata": {}} | content)


def refuse(code: int, reason: str, **metadata: str) -> Refusal:
    return Refusal(code, reason, metadata=metadata)


def wrong(*fields: str) -> Refusal:
    return Refusal(3, "INVALID_FIELDS", fields=sorted(fields))


def is_id(text: Any) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,59}", str(text)))


def is_money(text: Any, digits: int = 10) -> bool:
    return bool(re.fullmatch(rf"(0|[1-9][0-9]{{0,{digits - 1}}})(\.[0-9]{{1,2}})?", str(text)))


def is_more(text: Any, digits: int = 10) -> bool:
    return is_money(text, digits) and bool(re.search("[1-9]", str(text)))


Rules = dict[str, Callable[[Any], bool]]

CUSTOMER: Rules = {"external_id": is_id, "score": is_money}
LOAN: Rules = {
    "external_id": is_id,
    "customer_external_id": is_id,
    "amount": is_more,
    "maximum_payment_date": lambda moment: bool(moment),
}
PAYMENT: Rules = {
    "external_id": is_id,
    "customer_external_id": is_id,
    "total_amount": lambda amount: is_more(amount, 18),
}
BODIES = {
    "customers.CreateCustomer": ("customer", CUSTOMER),
    "loans.CreateLoan": ("loan", LOAN),
    "payments.CreatePayment": ("payment", PAYMENT),
}


def wrong_fields(rpc: str, request: Json) -> list[str]:
    """The names of the fields that are wrong, sorted; none if the request is valid."""
    if rpc in BODIES:
        name, rules = BODIES[rpc]
        body = request.get(name, {})
        return sorted(field for field, right in rules.items() if not right(body.get(field, "")))
    if rpc == "customers.UpdateCustomer":
        return _wrong_in_update(request)
    if rpc == "payments.BatchCreatePayments":
        return [] if 1 <= len(request["requests"]) <= 1000 else ["requests"]
    rules = {name: is_id for name in IDS if request.get(name) or (name in request and name == "external_id")}
    if rpc == "payments.RejectPayment":
        rules["reason"] = lambda reason: 1 <= len(reason) <= 500
    return sorted(field for field, right in rules.items() if not right(request.get(field, "")))


def named(request: Json) -> list[str]:
    """The fields that an update changes: those of its mask, or those that were sent."""
    mask = [name for name in request.get("update_mask", "").split(",") if name]
    if "*" in mask:
        return [*CHANGEABLE]
    return mask or [name for name in CHANGEABLE if name in request["customer"]]


def _wrong_in_update(request: Json) -> list[str]:
    body, names = request["customer"], named(request)
    if not set(names) <= set(CHANGEABLE):
        return ["update_mask"]
    missing = [name for name in ("external_id", "score", "status") if name in ("external_id", *names) and not body.get(name)]
    if missing or not names:
        return missing + ["update_mask"] * (not names)
    checks = {"external_id": is_id} | ({"score": is_money} if "score" in names else {})
    return sorted(field for field, right in checks.items() if not right(body[field]))
