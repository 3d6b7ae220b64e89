"""Bad input through both doors: each a clear error that names what is wrong, with nothing written."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.doors import Door, Json, Refused, RestDoor
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, pay, stored
from tests.rpcs import BY_ID

AMOUNTS = [
    "-1", "-0.01", "+1", "1.234", "0.001", "1.", ".5", "1,50", "1e5", "1E5", "NaN", "Infinity", "-inf", "0x10", "1_000",
    "01", "00.10", "007", " 1", "1 ", "1 000", "", "abc", "$5", "9" * 40, "1.0.0", "\u0661\u0662", "\uff11\uff12", "½",
    "1\n", "1\x00",
]  # fmt: skip
NOT_IDS = [
    "x" * 61, "a/b", "a b", " a", "a ", ".a", "-a", "_a", "~a", "..", "a:b", "a%2Fb", "a?b", "a#b", "a\\b", "é", "a\n",
    "\uff41", "a\u200b", "' OR 1=1 --",
]  # fmt: skip


def new(kind: str, customer: str) -> tuple[str, Json]:
    """An RPC that creates, and a request for it that is right in everything."""
    resources: dict[str, Json] = {
        "customer": {"score": "10"},
        "loan": {"customer_external_id": customer, "amount": "10", "maximum_payment_date": SOME_DAY},
        "payment": {"customer_external_id": customer, "total_amount": "10"},
    }
    return f"{kind}s.Create{kind.capitalize()}", {"external_id": new_id(kind)} | resources[kind]


def refusal(door: Door, rpc: str, **request: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        door(rpc, **request)
    return refused.value


def refused_fields(door: Door, rpc: str, **request: Any) -> set[str]:
    """The fields that the service finds wrong, each with a description, in what is refused for them alone."""
    refused = refusal(door, rpc, **request)
    assert (refused.code, refused.reason) == (3, "INVALID_FIELDS"), refused
    [bad] = [detail for detail in refused.details if "field_violations" in detail]
    assert len(bad["field_violations"]) == len(refused.fields)  # one violation a field
    assert all(refused.fields.values())
    assert "regex" not in refused.message  # words, not the pattern
    assert all(field in refused.message for field in refused.fields)
    return set(refused.fields)


def is_missing(door: Door, kind: str, external_id: str) -> bool:
    return refusal(door, f"{kind}s.Get{kind.capitalize()}", external_id=external_id).code == 5


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(("kind", "field"), [("customer", "score"), ("loan", "amount"), ("payment", "total_amount")])
def test_a_wrong_amount(door: Door, kind: str, field: str, amount: str) -> None:
    rpc, resource = new(kind, a_customer(door))
    assert refused_fields(door, rpc, **{kind: resource | {field: amount}}) == {field}
    assert is_missing(door, kind, resource["external_id"])


@pytest.mark.parametrize("amount", ["0", "0.0", "0.00"])
def test_nothing_is_no_amount_but_a_credit_line(door: Door, amount: str) -> None:
    customer = a_customer(door, amount)
    assert door("customers.GetCustomer", external_id=customer)["score"] == "0.00"
    for kind, field in (("loan", "amount"), ("payment", "total_amount")):
        rpc, resource = new(kind, customer)
        assert refused_fields(door, rpc, **{kind: resource | {field: amount}}) == {field}
        assert is_missing(door, kind, resource["external_id"])


@pytest.mark.parametrize(
    ("kind", "field", "digits"), [("customer", "score", 10), ("loan", "amount", 10), ("payment", "total_amount", 18)]
)
def test_an_amount_with_a_digit_too_many(door: Door, kind: str, field: str, digits: int) -> None:
    rpc, resource = new(kind, a_customer(door, "9999999999.99"))
    for amount in ("9" * (digits + 1), "1" + "0" * digits + ".00"):
        assert refused_fields(door, rpc, **{kind: resource | {field: amount}}) == {field}
    assert is_missing(door, kind, resource["external_id"])
    assert door(rpc, **{kind: resource | {field: "9" * digits + ".99"}})[field] == "9" * digits + ".99"


@pytest.mark.parametrize("bad", NOT_IDS)
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("customer", "external_id"),
        ("loan", "external_id"),
        ("loan", "customer_external_id"),
        ("payment", "external_id"),
        ("payment", "customer_external_id"),
    ],
)
def test_what_is_no_id_is_not_written(door: Door, kind: str, field: str, bad: str) -> None:
    rpc, resource = new(kind, a_customer(door))
    assert refused_fields(door, rpc, **{kind: resource | {field: bad}}) == {field}
    assert field == "external_id" or is_missing(door, kind, resource["external_id"])


@pytest.mark.parametrize("suffix", ["", "~", ".", "_", "-", "..", "A.z_9~-", "~" * 60])
def test_what_is_an_id(door: Door, suffix: str) -> None:
    external_id = (new_id("Id") + suffix)[:60]
    customer = a_customer(door, external_id=external_id)
    a_loan(door, customer, external_id=external_id)
    pay(door, customer, "1", external_id=external_id)
    for rpc in ("customers.GetCustomer", "loans.GetLoan", "payments.GetPayment"):
        assert door(rpc, external_id=external_id)["external_id"] == external_id


def test_what_has_another_form_is_refused_in_words(door: Door) -> None:
    for rpc in ("imports.GetImport", "imports.ListImportErrors", "imports.CancelImport"):
        for wrong in ("abc", "0", "01", "9" * 19, "1%0A" if isinstance(door, RestDoor) else "1\n"):
            assert refused_fields(door, rpc, id=wrong) == {"id"}
    customer = a_customer(door)
    rpc, loan = new("loan", customer)
    for wrong in ("\0", "v1\n", "a\x1fb", "\x7f"):
        assert refused_fields(door, rpc, loan=loan | {"contract_version": wrong}) == {"contract_version"}
    assert door(rpc, loan=loan | {"contract_version": "v1 \u0080"})["contract_version"] == "v1 \u0080"
    assert refused_fields(door, "payments.RejectPayment", external_id=new_id("p"), reason="a\0b") == {"reason"}


def in_path(door: Door, external_id: str) -> str:
    """An id as a caller of this door writes it where the REST binding has it in the path."""
    return quote(external_id, safe="") if isinstance(door, RestDoor) else external_id


@pytest.mark.parametrize("bad", [bad for bad in NOT_IDS if bad != ".."])
def test_what_is_no_id_is_refused_where_one_is_read(door: Door, bad: str) -> None:
    external_id = in_path(door, bad)
    for rpc in BY_ID:
        assert refused_fields(door, rpc, external_id=external_id) == {"external_id"}
    assert refused_fields(door, "payments.RejectPayment", external_id=external_id, reason="x") == {"external_id"}
    assert refused_fields(door, "customers.UpdateCustomer", customer={"external_id": external_id, "score": "1"}) == {
        "external_id"
    }
    for rpc, field in (
        ("loans.ListLoans", "customer_external_id"),
        ("payments.ListPayments", "customer_external_id"),
        ("payments.ListPayments", "loan_external_id"),
    ):
        assert refused_fields(door, rpc, **{field: bad}) == {field}


@pytest.mark.parametrize(
    ("kind", "required"),
    [
        ("customer", {"external_id", "score"}),
        ("loan", {"external_id", "customer_external_id", "amount", "maximum_payment_date"}),
        ("payment", {"external_id", "customer_external_id", "total_amount"}),
    ],
)
def test_everything_that_is_missing_is_told_at_once(door: Door, kind: str, required: set[str]) -> None:
    rpc, resource = new(kind, a_customer(door))
    assert refused_fields(door, rpc, **{kind: {}}) == required
    for field in required:
        rest = {name: value for name, value in resource.items() if name != field}
        assert refused_fields(door, rpc, **{kind: rest}) == {field}
    assert is_missing(door, kind, resource["external_id"])


def test_what_is_missing_and_what_is_wrong_are_told_at_once(door: Door) -> None:
    loan = {"external_id": "a b", "amount": "-1", "contract_version": "v" * 31}
    assert refused_fields(door, "loans.CreateLoan", loan=loan) == {
        "external_id",
        "customer_external_id",
        "amount",
        "contract_version",
        "maximum_payment_date",
    }


@pytest.mark.parametrize("version", ["", "v" * 31, "a\nb", "a\x00b", "\x7f"])
def test_a_wrong_contract_version(door: Door, version: str) -> None:
    rpc, loan = new("loan", a_customer(door))
    assert refused_fields(door, rpc, loan=loan | {"contract_version": version}) == {"contract_version"}
    assert is_missing(door, "loan", loan["external_id"])


@pytest.mark.parametrize("reason", ["", "x" * 501, "é" * 501, "a\x00b"])
def test_a_wrong_reason(door: Door, reason: str) -> None:
    customer = a_customer(door)
    a_loan(door, customer)
    payment = stored(pay(door, customer, "1"))
    assert refused_fields(door, "payments.RejectPayment", external_id=payment["external_id"], reason=reason) == {"reason"}
    assert door("payments.GetPayment", external_id=payment["external_id"]) == payment


@pytest.mark.parametrize("moment", ["tomorrow", "2099-13-01T00:00:00Z", "2099-06-30", "10000-01-01T00:00:00Z", "", 1719705600])
def test_a_wrong_moment_over_rest(over_rest: RestDoor, moment: object) -> None:
    rpc, loan = new("loan", a_customer(over_rest))
    refused = refusal(over_rest, rpc, loan=loan | {"maximum_payment_date": moment})
    assert (refused.code, refused.reason) == (3, "MALFORMED_REQUEST")
    assert is_missing(over_rest, "loan", loan["external_id"])


@pytest.mark.parametrize("rpc", ["loans.ListLoans", "payments.ListPayments"])
def test_a_filter_that_is_no_status(door: Door, rpc: str) -> None:
    for number in (7, -1):
        refused = refusal(door, rpc, status=number)
        # Envoy knows the numbers of an enum when it reads a query.
        assert (refused.code, refused.reason) == (3, "MALFORMED_REQUEST" if isinstance(door, RestDoor) else "INVALID_FIELDS")


@pytest.mark.parametrize("status", ["NONSENSE", "active", "STATUS_ACTIVE"])
def test_a_filter_that_names_no_status_over_rest(over_rest: RestDoor, status: str) -> None:
    refused = refusal(over_rest, "loans.ListLoans", status=status)
    assert (refused.code, refused.reason) == (3, "MALFORMED_REQUEST")


@pytest.mark.parametrize("status", [3, -1])
def test_an_undefined_status_is_not_written(door: Door, status: int) -> None:
    new_customer: Json = {"external_id": new_id("customer"), "score": "1", "status": status}
    assert refused_fields(door, "customers.CreateCustomer", customer=new_customer) == {"status"}
    assert is_missing(door, "customer", new_customer["external_id"])
    customer = a_customer(door)
    before = door("customers.GetCustomer", external_id=customer)
    change = {"external_id": customer, "status": status}
    assert refused_fields(door, "customers.UpdateCustomer", customer=change) == {"status"}
    assert door("customers.GetCustomer", external_id=customer) == before
