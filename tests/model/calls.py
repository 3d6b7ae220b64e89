"""Random calls: mostly right, on few ids, so that they meet each other."""

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

from tests.doors import Json
from tests.model.laboratory import BEGIN, CALLERS, DOORS


class Call(NamedTuple):
    """A call to make. Ids like `c1`, and keys, get a history's own prefix."""

    rpc: str
    request: Json
    key: str = ""
    door: str = "grpc"
    caller: str = "first"


class Maker:
    """Makes calls about customers `c0`, `c1` …, loans `l0` … and payments `p0` …"""

    def __init__(self, rng: Random, *, wrong: float = 0.08) -> None:
        """Take the chance of each value to be a wrong one."""
        self._rng = rng
        self._wrong = wrong

    def change(self) -> Call:
        """Something that changes customers, loans or payments, or tries to."""
        makers = [self._customer, self._update, self._loan, self._activate, self._reject, self._pay, self._bounce, self._batch]
        rpc, request = self._rng.choices(makers, [2, 3, 3, 3, 2, 4, 2, 2])[0]()
        if rpc != "payments.BatchCreatePayments":
            request |= self._mostly({}, {"preview_token": "x"})
        if self._rng.random() < 0.15:
            request["validate_only"] = True
        key = self._rng.choice(["", "", "", "k0", "k1", "k2"])
        return Call(rpc, request, key, self._rng.choice(DOORS), self._rng.choice(CALLERS))

    def read(self) -> Call:
        """A resource, an explanation, or a list."""
        door = self._rng.choice(DOORS)
        if self._rng.random() < 0.3:
            return Call(*self._list(), door=door)
        rpc, ids = self._rng.choice(
            [
                ("customers.GetCustomer", self.customer),
                ("customers.GetCustomerBalance", self.customer),
                ("loans.GetLoan", self.loan),
                ("payments.GetPayment", self.payment),
                ("payments.ExplainPayment", self.payment),
            ]
        )
        return Call(rpc, {"external_id": ids()}, door=door)

    def lines(self) -> list[str]:
        """Lines of a file to import."""
        return [f"{self._id('c', 5)},{self._score()}" for _ in range(self._rng.randint(1, 4))]

    def customer(self) -> str:
        return self._id("c", 4)

    def loan(self) -> str:
        return self._id("l", 7)

    def payment(self) -> str:
        return self._id("p", 6)

    def _mostly(self, usual: Any, *rare: Any) -> Any:
        return self._rng.choice(rare) if self._rng.random() < self._wrong else usual

    def _id(self, kind: str, count: int) -> str:
        # The first ones more often.
        place = min(self._rng.randrange(count), self._rng.randrange(count))
        return str(self._mostly(f"{kind}{place}", "-", "a" * 61, "é", "a b"))

    def _amount(self) -> str:
        usual = self._rng.choice(["0.01", "20", "33.33", "100.00", "250"])
        return str(self._mostly(usual, "0", "0.00", "-1", "1.001", "1e2", "", "12345678901234567890"))

    def _score(self) -> str:
        return str(self._mostly(self._rng.choice(["0", "100.00", "500", "1000.5"]), "-1", "01", "0.001", "12345678901"))

    def _incomplete(self, body: Json) -> Json:
        """Now and then, without one of its fields."""
        return {name: value for name, value in body.items() if name != self._mostly("", *body)}

    def _customer(self) -> tuple[str, Json]:
        body: Json = {"external_id": self.customer(), "score": self._score()}
        body |= self._rng.choice([{}, {"preapproved_at": BEGIN}])
        return "customers.CreateCustomer", {"customer": self._incomplete(body)}

    def _update(self) -> tuple[str, Json]:
        maybe: dict[str, Callable[[], Any]] = {
            "score": self._score,
            "status": lambda: self._rng.choice(["ACTIVE", "INACTIVE"]),
            "preapproved_at": lambda: BEGIN + timedelta(days=1),
            "etag": lambda: self._mostly(f'"{self._rng.randint(1, 4)}"', "x"),
        }
        body = {"external_id": self.customer()} | {name: make() for name, make in maybe.items() if self._rng.random() < 0.4}
        mask = self._rng.choice([{}, {}, {"update_mask": self._rng.choice(["score", "status,preapproved_at", "*", "etag"])}])
        return "customers.UpdateCustomer", {"customer": body} | mask

    def _loan(self) -> tuple[str, Json]:
        due = self._mostly(BEGIN + timedelta(days=3650), BEGIN, BEGIN - timedelta(days=1))
        body: Json = {"external_id": self.loan(), "customer_external_id": self.customer(), "amount": self._amount()}
        body |= {"maximum_payment_date": due} | self._rng.choice([{}, {"contract_version": "v1"}])
        return "loans.CreateLoan", {"loan": self._incomplete(body)}

    def _activate(self) -> tuple[str, Json]:
        return "loans.ActivateLoan", {"external_id": self.loan()}

    def _reject(self) -> tuple[str, Json]:
        return "loans.RejectLoan", {"external_id": self.loan()}

    def _pay(self) -> tuple[str, Json]:
        body = {"external_id": self.payment(), "customer_external_id": self.customer(), "total_amount": self._amount()}
        return "payments.CreatePayment", {"payment": self._incomplete(body)}

    def _bounce(self) -> tuple[str, Json]:
        return "payments.RejectPayment", {"external_id": self.payment(), "reason": self._mostly("No funds.", "", "x" * 501)}

    def _batch(self) -> tuple[str, Json]:
        items = [self._pay()[1] for _ in range(self._mostly(self._rng.randint(1, 4), 0))]
        keys: list[Json] = [{}, {"idempotency_key": "i0"}, {"idempotency_key": "i1"}]
        others = ({"preview_token": "x"}, {"validate_only": True})
        return "payments.BatchCreatePayments", {
            "requests": [item | self._rng.choice(keys) | self._mostly({}, *others) for item in items]
        }

    def _list(self) -> tuple[str, Json]:
        kind = self._rng.choice(["customers", "loans", "payments"])
        if kind == "customers":
            return "customers.ListCustomers", {}
        statuses = {"loans": ["PENDING", "ACTIVE", "REJECTED", "PAID"], "payments": ["COMPLETED", "REJECTED"]}[kind]
        filters = {"customer_external_id": self.customer(), "status": self._rng.choice(statuses)}
        if kind == "payments":
            filters["loan_external_id"] = self.loan()
        chosen = {name: value for name, value in filters.items() if self._rng.random() < 0.6}
        return f"{kind}.List{kind.capitalize()}", chosen


def tour() -> list[Call]:
    """Calls for the outcomes that random ones seldom have, in a history that has begun."""
    loan = {"external_id": "l8", "customer_external_id": "c1", "maximum_payment_date": BEGIN + timedelta(days=1)}
    payment = {"external_id": "p8", "customer_external_id": "c0", "total_amount": "1"}
    update, create = "customers.UpdateCustomer", "loans.CreateLoan"
    wrong_ids = ["loans.GetLoan", "payments.GetPayment", "payments.ExplainPayment", "customers.GetCustomer"]
    calls = [
        Call("payments.CreatePayment", {"payment": payment | {"external_id": "p6", "total_amount": "110"}}),
        Call("payments.RejectPayment", {"external_id": "p6", "reason": "It was of two loans."}),
        # Exactly what is left of the line, and a cent more; paid out when nothing is left; paid back to the last cent.
        Call(create, {"loan": loan | {"external_id": "l7", "amount": "249.50"}}),
        Call(create, {"loan": loan | {"amount": "0.01"}}),
        Call("loans.ActivateLoan", {"external_id": "l7"}),
        Call("payments.CreatePayment", {"payment": {"external_id": "p5", "customer_external_id": "c1", "total_amount": "300"}}),
        Call(create, {"loan": loan | {"amount": "5000"}}, "k8"),
        Call(create, {"loan": loan | {"amount": "5000"}}, "k8", "rest"),
        Call(create, {"loan": loan | {"amount": "5", "maximum_payment_date": BEGIN + timedelta(microseconds=3)}}),
        Call(create, {"loan": loan | {"amount": "5", "maximum_payment_date": BEGIN + timedelta(microseconds=4)}}, "k9"),
        Call(create, {"loan": loan | {"amount": "5", "maximum_payment_date": BEGIN + timedelta(microseconds=4)}}, "k9", "rest"),
        Call(update, {"customer": {"external_id": "c1", "score": "0"}}),
        Call("loans.ActivateLoan", {"external_id": "l8"}),
        Call(update, {"customer": {"external_id": "c1", "status": "INACTIVE"}}),
        Call("loans.ActivateLoan", {"external_id": "l8"}),
        Call(create, {"loan": loan | {"external_id": "l9", "amount": "5"}}),
        Call("payments.CreatePayment", {"payment": payment}, "k7"),
        Call("payments.CreatePayment", {"payment": payment}, "k7", "rest"),
        Call("payments.CreatePayment", {"payment": payment | {"external_id": "p9", "total_amount": "99999"}}),
        Call("payments.GetPayment", {"external_id": "p9"}),
        Call("loans.ActivateLoan", {"external_id": "l2", "preview_token": "x"}),
        Call("loans.RejectLoan", {"external_id": "-"}),
        Call("loans.ListLoans", {"customer_external_id": "-"}),
        Call("customers.GetCustomerBalance", {"external_id": "c99"}),
        *[Call(rpc, {"external_id": "-"}) for rpc in [*wrong_ids, "customers.GetCustomerBalance"]],
    ]
    customer = Call("customers.CreateCustomer", {"customer": {"external_id": "c9", "score": "5"}})
    calls += [customer._replace(request=customer.request | {"preview_token": "x"})]
    for call in (customer, Call("loans.ActivateLoan", {"external_id": "l2"})):
        calls += [call._replace(key=call.rpc, door=door) for door in DOORS]
    return [*calls, *[Call(rpc, {"external_id": f"{rpc.split('.')[0][0]}99"}) for rpc in wrong_ids]]


def outdated() -> list[Call]:
    """Calls about `c0` whose previews get stale."""
    loan = {"external_id": "l6", "customer_external_id": "c0", "amount": "1", "maximum_payment_date": BEGIN + timedelta(days=1)}
    payment = {"external_id": "p4", "customer_external_id": "c0", "total_amount": "1"}
    batch = {"requests": [{"payment": payment}, {"payment": payment | {"external_id": "p3"}, "preview_token": "x"}]}
    return [Call("loans.CreateLoan", {"loan": loan}), Call("payments.BatchCreatePayments", batch)]
