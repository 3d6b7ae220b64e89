"""The checker of concurrent histories finds those that are wrong, and no others."""

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from tests.doors import Json
from tests.model.laboratory import BEGIN
from tests.model.ledger import Ledger
from tests.model.linear import Operation, assert_explained, explained, smallest_unexplained
from tests.model.requests import Outcome, Told

Step = tuple[float, float, str, Json]

CREATE: Step = (0, 1, "customers.CreateCustomer", {"customer": {"external_id": "c", "score": "100"}})
LATER = BEGIN.replace(year=2040)


def lend(began: float, ended: float, name: str, amount: str = "60") -> Step:
    loan = {"external_id": name, "customer_external_id": "c", "amount": amount, "maximum_payment_date": LATER}
    return began, ended, "loans.CreateLoan", {"loan": loan}


def score(began: float, ended: float, amount: str) -> Step:
    return began, ended, "customers.UpdateCustomer", {"customer": {"external_id": "c", "score": amount}}


def look(began: float, ended: float) -> Step:
    return began, ended, "customers.GetCustomerBalance", {"external_id": "c"}


def history(steps: Sequence[Step], order: Sequence[int] = (), **keys: str) -> list[Operation]:
    """The steps, with the answers that they get in this order."""
    ledger = Ledger()
    answers: dict[int, Outcome] = {}
    for place in order or range(len(steps)):
        _, _, rpc, request = steps[place]
        answers[place] = ledger.call(rpc, request, Told(BEGIN, keys.get(f"step{place}", "")))
    return [Operation(*step, answers.get(place), keys.get(f"step{place}", "")) for place, step in enumerate(steps)]


def changed(operation: Operation, **content: Any) -> Operation:
    assert operation.outcome
    return operation._replace(outcome=operation.outcome._replace(content=operation.outcome.content | content))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 2, 1), (0, 3, 1, 2)])
def test_calls_at_once_may_take_effect_in_any_order(order: tuple[int, ...]) -> None:
    assert_explained(history([CREATE, lend(2, 5, "x"), lend(3, 6, "y"), look(4, 7)], order))


def test_a_call_takes_effect_before_one_that_begins_when_it_has_ended() -> None:
    steps = [CREATE, lend(2, 3, "x"), lend(4, 5, "y")]
    assert explained(history(steps))
    assert not explained(history(steps, (0, 2, 1)))


def test_a_lost_update_is_found() -> None:
    one, two = score(2, 5, "200"), score(3, 6, "300")
    found = history([CREATE, one, two, (7, 8, "customers.GetCustomer", {"external_id": "c"})])
    assert explained(found)
    lost = [*found[:2], changed(found[2], etag='"2"'), changed(found[3], etag='"2"')]
    assert not explained(lost)


def test_a_stale_read_is_found() -> None:
    assert explained(history([CREATE, lend(2, 4, "x"), look(3, 5)], (0, 2, 1))), "the read may come first"
    stale = history([CREATE, lend(2, 3, "x"), look(4, 5)], (0, 2, 1))
    assert smallest_unexplained(stale) == stale


def test_a_doubled_effect_is_found() -> None:
    steps = [CREATE, score(2, 3, "200"), score(4, 5, "200"), (6, 7, "customers.GetCustomer", {"external_id": "c"})]
    found = history(steps, step1="k", step2="k")
    assert found[2].outcome
    assert found[2].outcome.replayed
    assert explained(found)
    assert not explained([*found[:3], changed(found[3], etag='"3"')])
    twice = history(steps)
    assert not explained([operation._replace(key="k") if "Update" in operation.rpc else operation for operation in twice])


def test_a_skipped_refusal_is_found() -> None:
    found = history([CREATE, lend(2, 5, "x"), lend(3, 6, "y")])
    assert [operation.outcome and operation.outcome.code for operation in found] == [0, 0, 9]
    alone = history([CREATE, lend(3, 6, "y")])
    assert not explained([*found[:2], alone[1]])


def test_a_refusal_without_a_reason_is_found() -> None:
    found = history([CREATE, lend(2, 3, "x"), lend(4, 5, "y"), look(6, 7)])
    part = smallest_unexplained([found[0], *found[2:]])
    assert part == [found[0], found[2]], "what does not matter is left out"


@pytest.mark.parametrize("order", [(0, 2, 3), (0, 1, 2, 3), (0, 2, 1, 3)])
def test_a_call_of_unknown_outcome_may_have_taken_effect_at_any_time_or_never(order: tuple[int, ...]) -> None:
    found = history([CREATE, score(2, inf, "300"), look(3, 4), look(5, 6)], order)
    assert explained([found[0], found[1]._replace(outcome=None), *found[2:]])


def test_an_effect_that_was_seen_does_not_go_away() -> None:
    unknown = score(2, inf, "300")
    seen = history([CREATE, unknown, look(3, 4)])
    gone = history([CREATE, look(5, 6)])
    assert not explained([seen[0], seen[1]._replace(outcome=None), seen[2], gone[1]])
