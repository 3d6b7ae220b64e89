"""Concurrent histories: some order of the calls explains every answer, whatever is killed meanwhile (docs/rules.md, R56)."""

import uuid
from collections.abc import Iterator
from random import Random

import pytest

from tests.conftest import run_cli, settings_environment
from tests.model.crowd import Crowd, told_to_wait
from tests.model.linear import assert_explained
from tests.model.rounds import Rounds
from tests.model.service import Service, a_service

FAULTS = ("nothing", "kill_worker", "cut_connections", "kill_postgres")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with a_service(tmp_path_factory.mktemp("service")) as found:
        yield found
        environment = settings_environment(found.data_dir)
        assert run_cli(environment, "audit").returncode == 0


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("fault", "histories"), [("nothing", 15), ("kill_worker", 5), ("cut_connections", 5), ("kill_postgres", 3)]
)
def test_some_order_explains_every_answer(service: Service, rounds: Rounds, fault: str, histories: int) -> None:
    made = unknown = 0
    for seed in rounds:
        rng = Random(f"{seed} {fault}")  # noqa: S311 - not a secret
        for _ in range(histories):
            crowd = Crowd(service, uuid.UUID(int=rng.getrandbits(128)).hex[:12], rng)
            crowd.run(None if fault == "nothing" else getattr(service, fault))
            for customer in crowd.customers:
                assert_explained(crowd.of(customer))
            for waiting in told_to_wait(crowd.operations):
                others = [other for other in crowd.operations if other.key == waiting.key and other is not waiting]
                assert any(other.began < waiting.ended and waiting.began < other.ended for other in others), waiting
            made += len(crowd.operations)
            unknown += sum(operation.outcome is None for operation in crowd.operations)
        rounds.tell(f"{fault}, seed {seed}: {made} calls so far, {unknown} of unknown outcome, all explained")
