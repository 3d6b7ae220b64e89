"""The audit of the events' positions."""

from tests.conftest import Stack, run_cli
from tests.databases import connect
from tests.integrity.test_audit import a_database

# Of each portfolio four events, in this order: the first of `ana~`, that of `bo~`, and two more of `ana~`. The audit finds
# other things wrong with them, too.
EVENTS = """
    CREATE TEMPORARY TABLE new AS
    SELECT row_number() OVER (ORDER BY portfolio, place) AS position, id AS customer_id, number
    FROM generate_series(0, 4) AS portfolio
        CROSS JOIN (VALUES (1, 'ana', 1), (2, 'bo', 1), (3, 'ana', 2), (4, 'ana', 3)) AS event (place, name, number)
        JOIN customers ON external_id = name || portfolio;
    INSERT INTO journal_events (customer_id, number, kind, recorded_at, actor, request_id, backfilled, score_after, debt_after,
        loan_ids, loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after, hash)
    SELECT customer_id, number, 1, now(), 'key', '', false, 0, 0, '{}', '{}', '{}', '{}', '{}', sha256('') FROM new;
    INSERT INTO journal_positions (position, customer_id, number, kind) SELECT position, customer_id, number, 1 FROM new;
"""

SEEN = "UPDATE journal_head SET position = 20, snapshot = pg_current_snapshot()::text"

# How each portfolio is broken, and what the audit then says; the last is whole.
BREAKS = [
    (
        "DELETE FROM journal_positions WHERE position = 2",
        ["journal_positions 3: after 1", "journal_events bo0: number 1 has no position"],
    ),
    ("UPDATE journal_positions SET kind = 7 WHERE position = 6", ["journal_positions 6:", "no such event of kind 7"]),
    (
        "DELETE FROM journal_events WHERE number = 3 AND customer_id = (SELECT id FROM customers WHERE external_id = 'ana2')",
        ["journal_positions 12:", "number 3: no such event of kind 1"],
    ),
    (
        "UPDATE journal_positions SET number = 9 WHERE position = 15",
        ["journal_positions ana3: number 9 at 15, after number 3 at 16", "journal_events ana3: number 2 has no position"],
    ),
    ("UPDATE journal_head SET position = 21", ["journal_positions head: at 21, the last position is 20"]),
]


def test_positions_that_are_wrong_are_found(stack: Stack) -> None:
    with a_database(stack, 5, journal=False) as (url, environment):
        with connect(url, autocommit=True) as connection:
            connection.execute(EVENTS)
            connection.execute(SEEN)  # in a transaction after that of the events, which its snapshot has seen
            for break_it, _ in BREAKS:
                assert connection.execute(break_it.encode()).rowcount == 1
        done = run_cli(environment, "audit", check=False)
    assert done.returncode == 1
    for _, findings in BREAKS:
        for finding in findings:
            assert finding in done.stdout
    wrong = {line.split(":")[0] for line in done.stdout.splitlines() if "position" in line or "after number" in line}
    assert not wrong & {f"journal_events {name}4" for name in ("ana", "bo")}
    assert not wrong & {f"journal_positions {name}" for name in ("ana4", "bo4", *map(str, range(17, 21)))}
