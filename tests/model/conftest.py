import pytest

from tests.model.rounds import Rounds


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> Rounds:
    return Rounds(pytestconfig.getoption("--seed"), pytestconfig.getoption("--minutes"))
