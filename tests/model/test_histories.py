"""Random histories: the service answers what the reference model answers, whatever comes after what."""

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import Stack
from tests.model import calls
from tests.model.laboratory import Laboratory, a_laboratory
from tests.model.machine import Histories
from tests.model.rounds import Rounds

HISTORIES = 30
"""Those of hypothesis in each round, of up to as many steps as `STEPS`."""
WALKS = 40
STEPS = 40

_TO_CREATE = "INVALID_FIELDS,IDEMPOTENCY_KEY_REUSED,PREVIEW_TOKEN_INVALID"
_TO_CHANGE = f"{_TO_CREATE},PREVIEW_STALE"

EXPECTED = {
    "customers.CreateCustomer": f"ok,preview ok,replayed ok,CUSTOMER_ALREADY_EXISTS,{_TO_CREATE}",
    "customers.UpdateCustomer": f"ok,preview ok,replayed ok,CUSTOMER_NOT_FOUND,STALE_ETAG,{_TO_CHANGE}",
    "customers.GetCustomer": "ok,CUSTOMER_NOT_FOUND,INVALID_FIELDS",
    "customers.GetCustomerBalance": "ok,CUSTOMER_NOT_FOUND,INVALID_FIELDS",
    "customers.ListCustomers": "ok",
    "loans.CreateLoan": "ok,preview ok,replayed ok,CUSTOMER_NOT_FOUND,LOAN_ALREADY_EXISTS,CUSTOMER_INACTIVE,"
    f"CREDIT_LIMIT_EXCEEDED,replayed CREDIT_LIMIT_EXCEEDED,{_TO_CHANGE}",
    "loans.ActivateLoan": "ok,preview ok,replayed ok,LOAN_NOT_FOUND,LOAN_WRONG_STATUS,CUSTOMER_INACTIVE,"
    f"CREDIT_LIMIT_EXCEEDED,{_TO_CHANGE}",
    "loans.RejectLoan": f"ok,preview ok,replayed ok,LOAN_NOT_FOUND,LOAN_WRONG_STATUS,{_TO_CHANGE}",
    "loans.GetLoan": "ok,LOAN_NOT_FOUND,INVALID_FIELDS",
    "loans.ListLoans": "ok,INVALID_FIELDS",
    "payments.CreatePayment": "COMPLETED,REJECTED,preview COMPLETED,preview REJECTED,replayed COMPLETED,replayed REJECTED,"
    f"CUSTOMER_NOT_FOUND,PAYMENT_ALREADY_EXISTS,{_TO_CHANGE}",
    "payments.RejectPayment": "REJECTED,preview REJECTED,replayed REJECTED,PAYMENT_NOT_FOUND,PAYMENT_WRONG_STATUS,"
    f"{_TO_CHANGE}",
    "payments.BatchCreatePayments": "ok,preview ok,replayed ok,INVALID_FIELDS,IDEMPOTENCY_KEY_REUSED",
    "an item of a batch": f"COMPLETED,REJECTED,CUSTOMER_NOT_FOUND,PAYMENT_ALREADY_EXISTS,{_TO_CHANGE}",
    "payments.GetPayment": "COMPLETED,REJECTED,PAYMENT_NOT_FOUND,INVALID_FIELDS",
    "payments.ListPayments": "ok,INVALID_FIELDS",
    "payments.ExplainPayment": "ok,PAYMENT_NOT_FOUND,INVALID_FIELDS",
    "as of a time": "ok,NOT_YET_CREATED,CUSTOMER_NOT_FOUND,LOAN_NOT_FOUND,PAYMENT_NOT_FOUND,INVALID_FIELDS",
    "imports.UploadCustomers": "ok,a wrong line",
}
"""Each outcome of each RPC; TOO_MANY_OPEN_LOANS alone takes too many steps, and has a test of its own."""


@pytest.fixture(scope="module")
def laboratory(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with a_laboratory(stack, tmp_path_factory.mktemp("laboratory")) as found:
        yield found


@pytest.mark.timeout(0)
def test_the_service_answers_what_the_model_answers(laboratory: Laboratory, rounds: Rounds) -> None:
    Histories.laboratory = laboratory
    tour = Histories()
    tour.begin("300", "20")
    for call in calls.outdated():
        tour.preview_and_do(call, "", "c0")
    for call in calls.tour():
        tour.make(call)
    tour.teardown()
    for number in rounds:
        rng = Random(number)  # noqa: S311 - not a secret
        for _ in range(WALKS):
            Histories().walk(rng, STEPS)
        run_state_machine_as_test(
            seed(number)(Histories),
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
        answers = sum(Histories.seen.values())
        rounds.tell(f"seed {number}: {Histories.histories} histories, {answers} answers, all as the model's")
    expected = {(rpc, outcome) for rpc, outcomes in EXPECTED.items() for outcome in outcomes.split(",")}
    missing = sorted(expected - Histories.seen.keys())
    assert not missing, f"not seen: {missing}"
