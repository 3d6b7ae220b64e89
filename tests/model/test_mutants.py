"""The faults that `make mutation` puts in are those that they say, one at a time."""

import ast
import difflib

from tests.model.mutants import mutants

SOURCE = '''
"""Not this < text."""
LIMIT: int = 3

def decide(amount: int, line: int = 0) -> bool:
    """Nor AND this one."""
    note(amount)
    if amount:
        return amount <= line + LIMIT and line not in (1, 2)
    return run("SELECT 1 FROM loans WHERE a < b AND c FOR NO KEY UPDATE")
'''
FAULTS = [
    "3: 4",
    "0: 1",
    "note(amount): left out",
    "if not amount",
    "amount <= line + LIMIT and line not in (1, 2): Or",
    "SQL  FOR NO KEY UPDATE: ",
    "SQL  < :  <= ",
    "SQL  AND :  OR ",
    "amount <= line + LIMIT: Lt",
    "line not in (1, 2): In",
    "line + LIMIT: Sub",
    "1: 2",
    "2: 3",
]


def test_each_mutant_has_one_fault() -> None:
    found = [*mutants(SOURCE)]
    assert sorted(mutant.fault for mutant in found) == sorted(FAULTS)
    before = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in found:
        changed = [line for line in difflib.ndiff(before, mutant.source.splitlines()) if line[0] in "-+"]
        assert [line[0] for line in changed] == ["-", "+"], mutant.fault
    assert len({mutant.source for mutant in found}) == len(found)
