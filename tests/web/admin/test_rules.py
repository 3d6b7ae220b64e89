"""What is said of a credit line."""

from decimal import Decimal

import pytest

from mo_grpc.web.admin.rules import used


@pytest.mark.parametrize(
    ("total", "line", "words"),
    [
        ("0", "100", "0 % used"),
        ("0.50", "100", "less than 1 % used"),
        ("99.99", "100", "99 % used"),
        ("100", "100", "100 % used"),
        ("100.01", "100", "101 % used"),
        ("7000", "100", "7,000 % used"),
        ("10", "0", "no credit line"),
    ],
)
def test_how_much_of_a_line_is_used(total: str, line: str, words: str) -> None:
    assert used(Decimal(total), Decimal(line)) == words
