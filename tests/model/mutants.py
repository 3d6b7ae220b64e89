"""Small faults, put into a module one at a time: each is a change that a careless edit might make."""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

Change = Callable[[Any], object]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_SIGNS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
_SQL = {
    r" FOR NO KEY UPDATE( SKIP LOCKED)?": "",
    r" <= ": " < ",
    r" < ": " <= ",
    r" AND ": " OR ",
    r" DESC\b": "",
    r"\bORDER BY (\w+(\.\w+)?)(?= |$)": r"ORDER BY \1 DESC",
    r"pg_try_advisory_xact_lock\(hashtextextended\((.*), 0\)\)": "true",
}


class Mutant(NamedTuple):
    """A module's source with one fault."""

    line: int
    fault: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(source)
    code = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign)
    ]
    inside = {id(node) for each in code for node in _runs(each)}
    for place, node in enumerate(ast.walk(tree)):
        if id(node) not in inside:
            continue
        for number, (fault, _) in enumerate(_faults(node)):
            other = copy.deepcopy(tree)
            twin = [*ast.walk(other)][place]
            [*_faults(twin)][number][1](twin)
            yield Mutant(getattr(node, "lineno", 0), fault, ast.unparse(ast.fix_missing_locations(other)))


def _runs(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one that are executed: no annotations and no docstrings."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_text(child):
                yield child
                yield from _runs(child)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _faults(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What can be wrong about a node, and how to make it so."""
    before = ast.unparse(node)[:60] if isinstance(node, ast.expr | ast.stmt) else ""
    if isinstance(node, ast.Compare) and (other := _COMPARISONS.get(type(node.ops[0]))):
        yield f"{before}: {other.__name__}", lambda n: n.ops.__setitem__(0, other())
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{before}: {swapped.__name__}", lambda n: setattr(n, "op", swapped())
    elif isinstance(node, ast.BinOp | ast.AugAssign) and (sign := _SIGNS.get(type(node.op))):
        yield f"{before}: {sign.__name__}", lambda n: setattr(n, "op", sign())
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
        yield f"if not {ast.unparse(node.test)[:50]}", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"{before}: left out", lambda n: setattr(n, "value", ast.Constant(None))
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield f"{node.value}: {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        for pattern, replacement in _SQL.items():
            changed = re.sub(pattern, replacement, node.value, count=1)
            if changed != node.value:
                found = re.search(pattern, node.value)
                yield f"SQL {found[0] if found else ''}: {replacement}", partial(_set_value, changed)


def _set_value(value: str, node: ast.Constant) -> None:
    node.value = value
