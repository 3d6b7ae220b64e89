"""What fuzzing has found is tried again, without the fuzzer."""

import random

import pytest
from mo.payments.v1.payments_pb2 import ListPaymentsRequest

from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.rpc.pages import PageRequest
from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_before(target: str) -> None:
    found = corpus.read(target)
    assert found
    for data in [b"", *found]:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_before_with_one_byte_changed(target: str) -> None:
    rng = random.Random(1)  # noqa: S311 - not a secret
    for data in map(bytearray, corpus.read(target)):
        for _ in range(20 if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
            TARGETS[target](bytes(data))


def test_each_target_has_a_corpus() -> None:
    assert corpus.targets() == sorted(TARGETS)


def test_what_is_right_is_taken() -> None:
    """Otherwise, the targets could pass by refusing everything."""
    TARGETS["page_token"](PageRequest(ListPaymentsRequest()).next_token(7).encode())
    TARGETS["credential"](str(Credential.generate()).encode())
