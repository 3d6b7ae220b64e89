"""CSV files hold what they were given, and no spreadsheet finds a formula in them."""

import csv
import io
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mo_grpc.spreadsheets import csv_lines

SIGNS = ("=", "+", "-", "@")


@given(st.text(st.sampled_from("=+-@;,\t\r\n '\"xé")))
def test_no_cell_is_a_formula_whatever_separates_cells(text: str) -> None:
    written = csv_lines([["id", text]])
    for cell in re.split(r"[;,\t\r\n]", written):
        assert not cell.lstrip(' "').startswith(SIGNS), written
    [[_, read]] = csv.reader(io.StringIO(written, newline=""))
    assert not read.startswith(("\t", "\r", "\n"))
    assert read.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("x;=1+1;", '"x;\'=1+1;"'),
        ("\n=1", "\"'\n'=1\""),
        ("a\r\nb", '"a\r\nb"'),
        ("a\r\n-b", '"a\r\n\'-b"'),
        (" @x", '"\' @x"'),
        ("2-1=1", '"2-1=1"'),
        ('say "no"', '"say ""no"""'),
        (None, '""'),
        (-7, "-7"),
        (Decimal("-7.50"), "-7.50"),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02 00:00:00+00:00"'),
    ],
)
def test_what_is_written(value: object, written: str) -> None:
    assert csv_lines([[value]]) == f"{written}\r\n"
