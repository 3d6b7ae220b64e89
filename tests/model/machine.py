"""Drives the model and the service with the same random steps, and compares each answer, and at the end all there is."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import SearchStrategy

from tests.doors import Json
from tests.imports.files import upload
from tests.journal import reading
from tests.journal.chain import assert_chain
from tests.model import answers
from tests.model.calls import Call, Maker
from tests.model.laboratory import BEGIN, CALLERS, DOORS, Laboratory
from tests.model.ledger import Ledger
from tests.model.requests import Outcome, Told
from tests.waiting import eventually

T = TypeVar("T")


def made(make: Callable[[Maker], T]) -> SearchStrategy[T]:
    """Of a seed, because a random generator meets more of the rare values, and sooner, than hypothesis does."""
    return st.binary(min_size=8, max_size=8).map(lambda seed: make(Maker(Random(seed))))  # noqa: S311 - not a secret


CHANGES, READS, LINES = made(Maker.change), made(Maker.read), made(Maker.lines)
KEYS = st.sampled_from(["k0", "k1", "k2"])


class Histories(RuleBasedStateMachine):
    """One history; all share a service. A failure prints the steps that lead to it, which can be replayed as they stand."""

    laboratory: ClassVar[Laboratory]
    seen: ClassVar[Counter[tuple[str, str]]] = Counter()
    """How often each outcome of each RPC came."""
    histories: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).histories += 1
        self.prefix = f"h{self.histories}-"
        self.ledger = Ledger()
        self.tokens = answers.Tokens()
        self.past: dict[datetime, Ledger] = {}
        """What there was at each time, after all that happened then."""
        self.made: list[Call] = []
        self.shown: list[Call] = []
        self.laboratory.set_clock(BEGIN)

    @initialize(score=st.sampled_from(["300", "1000"]), paid=st.sampled_from(["20", "100.00", "120.5"]))
    def begin(self, score: str, paid: str) -> None:
        """Two customers, of whom one has a loan of each status that is not over, and a payment."""
        due = BEGIN + timedelta(days=3650)
        for customer in ("c0", "c1"):
            self.make(Call("customers.CreateCustomer", {"customer": {"external_id": customer, "score": score}}))
        for number, (customer, amount) in enumerate([("c0", "100.00"), ("c0", "33.33"), ("c0", "20"), ("c1", "50.5")]):
            loan = {
                "external_id": f"l{number}",
                "customer_external_id": customer,
                "amount": amount,
                "maximum_payment_date": due,
            }
            self.make(Call("loans.CreateLoan", {"loan": loan}))
        for loan_id in ("l1", "l0", "l3"):
            self.step_clock(timedelta(microseconds=1))
            self.make(Call("loans.ActivateLoan", {"external_id": loan_id}))
        payment = {"external_id": "p0", "customer_external_id": "c0", "total_amount": paid}
        self.make(Call("payments.CreatePayment", {"payment": payment}))

    @rule(stale=st.sampled_from(["loans.ActivateLoan", "loans.RejectLoan"]))
    def wait_too_long(self, stale: str) -> None:
        """What a preview showed is no longer so."""
        self.make(Call(stale, {"external_id": "l2", "validate_only": True}))
        self.make(Call("customers.UpdateCustomer", {"customer": {"external_id": "c0", "score": "500"}}))
        if self.shown:
            self.make(self.shown[-1])

    @rule(call=CHANGES)
    def change(self, call: Call) -> None:
        self.make(call)

    @rule(call=CHANGES, key=KEYS, doors=st.permutations(DOORS))
    def retry(self, call: Call, key: str, doors: list[str]) -> None:
        """The same call through both doors, with a key."""
        for door in doors:
            self.make(call._replace(key=key, door=door))

    @rule(call=CHANGES, key=st.just("") | KEYS, meanwhile=st.sampled_from(["", "c0", "c1"]))
    def preview_and_do(self, call: Call, key: str, meanwhile: str) -> None:
        """What was shown is done, perhaps after something else has happened to the customer."""
        shown = len(self.shown)
        self.make(call._replace(request=call.request | {"validate_only": True}))
        if meanwhile:
            self.make(Call("customers.UpdateCustomer", {"customer": {"external_id": meanwhile, "score": "500"}}))
        if len(self.shown) > shown:
            self.make(self.shown[-1]._replace(key=key))

    @rule(call=READS)
    def read(self, call: Call) -> None:
        self.make(call)

    @rule(call=READS, back=st.integers(0, 5))
    def look_back(self, call: Call, back: int) -> None:
        """What was so at an earlier time (R92), or did not exist yet (R93)."""
        if not call.rpc.split(".")[1].startswith("Get"):
            return
        time = [*self.past][-1 - back % len(self.past)]
        told, request = Told(self.laboratory.now), self._own(call.request)
        now, then = self.ledger.call(call.rpc, request, told), self.past[time].call(call.rpc, request, told)
        not_yet = {"reason": "NOT_YET_CREATED", "metadata": {"external_id": request["external_id"]}}
        expected = now if now.code else Outcome(9, not_yet) if then.code else then
        door = self.laboratory.doors[call.door, call.caller]
        self._compare(call, expected, answers.call(door, call.rpc, request | {"as_of": {"time": time}}))
        self.seen["as of a time", answers.label(expected, request) if expected.code else "ok"] += 1

    @precondition(lambda self: self.made)
    @rule(number=st.integers(0, 3), door=st.sampled_from(DOORS), caller=st.sampled_from(CALLERS))
    def again(self, number: int, door: str, caller: str) -> None:
        """Retry one of the last calls that had a key, perhaps as another caller."""
        self.make(self.made[-1 - number % len(self.made)]._replace(door=door, caller=caller))

    @precondition(lambda self: self.shown)
    @rule(number=st.integers(0, 3), key=st.just("") | KEYS, of_another=st.integers(0, 5))
    def do_as_shown(self, number: int, key: str, of_another: int) -> None:
        """Do what a preview showed, or send its token with another request."""
        call = self.shown[-1 - number % len(self.shown)]
        token = self.shown[-1].request.get("preview_token") if of_another == 5 and "requests" not in call.request else None
        self.make(call._replace(request=call.request | ({"preview_token": token} if token else {}), key=key))

    @rule(lines=LINES, door=st.sampled_from(DOORS))
    def import_customers(self, lines: list[str], door: str) -> None:
        own = [self._own(line) for line in lines]
        expected = self.ledger.upload(own, Told(self.laboratory.now))
        found = upload(self.laboratory.doors[door, "first"], "\n".join(own).encode())
        errors = self.laboratory.doors["grpc", "first"]("imports.ListImportErrors", id=found["id"])["errors"]
        actual = {"created_count": found["created_count"], "failed": [error["line_number"] for error in errors]}
        assert actual == expected, (own, errors)
        self.past[self.laboratory.now] = self.ledger.copy()
        self.seen["imports.UploadCustomers", "ok"] += 1
        self.seen["imports.UploadCustomers", "a wrong line"] += bool(errors)

    @rule(step=st.sampled_from([timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)]))
    def step_clock(self, step: timedelta) -> None:
        self.laboratory.step_clock(step)

    def walk(self, rng: Random, steps: int) -> None:
        """A history without hypothesis, whose steps are more even: it meets more outcomes, but is not reduced when it fails."""
        maker = Maker(rng)
        self.begin(rng.choice(["300", "1000"]), rng.choice(["20", "100.00", "120.5"]))
        for _ in range(steps):
            step = rng.choice([self.change, self.retry, self.preview_and_do, self.read, self.look_back, self.step_clock])
            if step == self.step_clock:
                self.step_clock(timedelta(microseconds=1))
            elif step == self.retry:
                self.retry(maker.change(), rng.choice(["k0", "k1", "k2"]), rng.sample(DOORS, 2))
            elif step == self.preview_and_do:
                self.preview_and_do(maker.change(), "", rng.choice(["", "c0", "c1"]))
            elif step == self.look_back:
                self.look_back(maker.read(), rng.randrange(6))
            else:
                step(maker.read() if step == self.read else maker.change())
        self.teardown()

    def teardown(self) -> None:
        """Compare all there is: customers, balances, loans, payments, explanations and the journal."""
        if self.ledger.customers:
            self._compare_all()

    def _compare_all(self) -> None:
        for kind, rows in (("customer", self.ledger.customers), ("loan", self.ledger.loans), ("payment", self.ledger.payments)):
            self.make(Call(f"{kind}s.List{kind.capitalize()}s", {}))
            for external_id in rows:
                if rpc := {"customer": "customers.GetCustomerBalance", "payment": "payments.ExplainPayment"}.get(kind):
                    self.make(Call(rpc, {"external_id": external_id}))
        eventually(self.laboratory.settled, 10)
        for customer, events in self.ledger.events.items():
            found = reading.events(self.laboratory.doors["grpc", "first"], customer_external_id=customer)
            assert_chain(found)
            different = [*answers.differences(answers.plain([*events]), answers.plain(found))]
            assert not different, "\n".join(different)

    def make(self, call: Call) -> None:
        """Make a call, and compare the answer with the model's."""
        request, told = self._own(call.request), Told(self.laboratory.now, self._own_key(call.key), call.caller)
        if "List" in call.rpc:
            expected, actual = self.ledger.call(call.rpc, request, told), self._list(call, request)
        else:
            expected = self.ledger.call(call.rpc, request, told)
            door = self.laboratory.doors[call.door, call.caller]
            actual = answers.call(door.keyed(told.key) if told.key else door, call.rpc, self.tokens.sent(request))
        self.seen[call.rpc, answers.label(actual, request)] += 1
        for result in expected.content.get("results", ()):
            [(_, content)] = result.items()
            self.seen["an item of a batch", content.get("reason") or content["status"]] += 1
        self._compare(call, expected, actual)
        self.past[told.now] = self.ledger.copy()
        if told.key:
            self.made.append(call)
        if as_shown := _as_shown(call.request, expected.content):
            self.shown.append(call._replace(request=as_shown))

    def _compare(self, call: Call, expected: Outcome, actual: Outcome) -> None:
        known = expected._replace(content=self.tokens.learn(answers.plain(expected.content), actual.content))
        assert actual == known, "\n".join([f"{call}", *answers.differences(known._asdict(), actual._asdict())])

    def _list(self, call: Call, request: Json) -> Outcome:
        """All pages of a list, as far as they are of this history, whose rows are the newest."""
        door, found, token = self.laboratory.doors[call.door, call.caller], [], ""
        kind = call.rpc.split(".")[0]
        while True:
            sent = {name: value for name, value in request.items() if value}
            outcome = answers.call(door, call.rpc, sent | {"page_size": 3, "page_token": token})
            if outcome.code:
                return outcome
            found += [row for row in outcome.content[kind] if row["external_id"].startswith(self.prefix)]
            token = outcome.content["next_page_token"]
            if not token or not outcome.content[kind][-1]["external_id"].startswith(self.prefix):
                return Outcome(0, {kind: found})

    def _own(self, value: Any) -> Any:
        """A request with the ids of this history."""
        if isinstance(value, dict):
            return {name: self._own_key(item) if name == "idempotency_key" else self._own(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._own(item) for item in value]
        return self.prefix + value if isinstance(value, str) and re.match(r"[clp][0-9]+(,|$)", value) else value

    def _own_key(self, key: str) -> str:
        return self.prefix + key if key else ""


def _as_shown(request: Json, content: Json) -> Json | None:
    """The request that does what an answer shows, if it shows a preview."""
    plain = {name: value for name, value in request.items() if name not in ("validate_only", "preview_token")}
    if token := content.get("preview_token") or content.get("metadata", {}).get("preview_token"):
        return plain | {"preview_token": token}
    if "results" in content and "validate_only" in request:
        shown = [
            _as_shown(*pair) or pair[0] for pair in zip(request["requests"], map(_payment, content["results"]), strict=True)
        ]
        return {"requests": shown}
    return None


def _payment(result: Json) -> Json:
    payment: Json = result.get("payment", {})
    return payment
