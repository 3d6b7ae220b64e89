"""Whatever is done to the journal, or to rows without it, `mo-grpc audit` finds."""

import pytest

from tests.conftest import Stack, run_cli
from tests.databases import connect
from tests.integrity.test_audit import a_database

OF_ANA = "customer_id = (SELECT id FROM customers WHERE external_id = 'ana~')"
OF_BO = OF_ANA.replace("ana~", "bo~")

# An event with another actor, and the hash that it would have (docs/events.md).
FORGE = """
    UPDATE journal_events SET actor = 'eve', hash = sha256(decode(repeat('00', 32), 'hex') || convert_to(concat_ws(E'\\n',
        'ana~', 1, 'CUSTOMER_CREATED', to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'eve', '', '',
        '', '', '1000.00 0.00', '0 1', '', ''), 'UTF8'))
    WHERE OF_ANA AND number = 1
"""
MOVE = """
    UPDATE journal_events SET customer_id = (SELECT id FROM customers WHERE external_id = 'bo~'), number = 9
    WHERE OF_ANA AND number = 7
"""
SWAP = """
    UPDATE journal_events SET number = 100 + number WHERE OF_ANA AND number IN (2, 3);
    UPDATE journal_events SET number = 105 - number WHERE OF_ANA AND number > 100
"""

# What is done to each portfolio, and what the audit then says. The events of `ana~` are: the customer created (1), two loans
# created (2, 3) and activated (4, 5), the payment (6), and `paid~` paid (7). The last one of `bo~` is: a payment bounced (8).
EVENTS = [
    ("UPDATE journal_events SET amount = 80.01 WHERE OF_ANA AND number = 6", "ana~ 6: amount 80.01"),
    ("UPDATE journal_events SET amount = 80.01 WHERE OF_ANA AND number = 6", "payments p-80~: status 1, amount 80.00"),
    ("UPDATE journal_events SET recorded_at = '2020-01-01' WHERE OF_ANA AND number = 3", "ana~ 3: recorded 2020-01-01"),
    ("UPDATE journal_events SET backfilled = NOT backfilled WHERE OF_ANA AND number = 3", "ana~ 3: done by '', backfilled f"),
    ("DELETE FROM journal_events WHERE OF_ANA AND number = 3", "ana~ 4: follows number 2"),
    ("DELETE FROM journal_events WHERE OF_ANA AND number = 1", "ana~ 2: follows number 0"),
    ("DELETE FROM journal_events WHERE OF_ANA AND number = 7", "payment_details p-80~: amount 30.00"),
    ("DELETE FROM journal_events WHERE OF_BO AND number = 8", "payments p-70~: status 2, amount 70.00"),
    ("DELETE FROM journal_events WHERE OF_BO AND number = 8", "loans back~: status 2, outstanding 70.00; the event"),
    ("DELETE FROM journal_events WHERE OF_BO AND number = 8", "customers bo~: score 500.00, debt 80.00"),
    ("DELETE FROM journal_events WHERE OF_BO", "payments p-999~: has no event"),
    (MOVE, "bo~ 9: begins with score 1000.00"),
    (MOVE, "bo~ 9: loan paid~: begins with status 4"),
    (SWAP, "ana~ 2: begins with score 1000.00"),
    ("UPDATE journal_events SET score_after = 999 WHERE OF_ANA AND number = 6", "ana~ 7: begins with score 1000.00"),
    (
        "UPDATE journal_events SET debt_after = 50.01 WHERE OF_ANA AND number = 7",
        "ana~ 7: amount 30.00, debt from 50.00 to 50.01",
    ),
    ("UPDATE journal_events SET status_after = 2 WHERE OF_ANA AND number = 1", "customers ana~: score 1000.00"),
    (
        "UPDATE journal_events SET outstandings_before = '{31}', outstandings_after = '{31}' WHERE OF_ANA AND number = 7",
        "ana~ 7: loan paid~: begins with status 4, outstanding 31",
    ),
    (
        "UPDATE journal_events SET kind = 2, status_before = 2, status_after = 1, version = 2 WHERE OF_ANA AND number = 7",
        "ana~ 7: status 2, version 2; before it status 1, version 1",
    ),
]

HASHES = [
    ("UPDATE journal_events SET amount = 80.01 WHERE OF_ANA AND number = 6", "ana~ 6: was changed"),
    ("UPDATE journal_events SET actor = 'eve' WHERE OF_ANA AND number = 3", "ana~ 3: was changed"),
    (FORGE, "ana~ 2: was changed, or does not follow the one before"),
    ("DELETE FROM journal_events WHERE OF_ANA AND number = 3", "ana~ 4: was changed"),
    (MOVE, "bo~ 9: was changed"),
    (SWAP, "ana~ 2: was changed"),
    ("UPDATE journal_events SET amount = NULL WHERE OF_ANA AND number = 6", "ana~ 6: was changed"),
    ("UPDATE journal_events SET debt_before = NULL WHERE OF_ANA AND number = 6", "ana~ 6: was changed"),
    ("UPDATE journal_events SET outstandings_after = '{}' WHERE OF_ANA AND number = 6", "ana~ 6: was changed"),
]

# What was backfilled is not spread again.
# The payment takes from the younger loan what the older one should give, and everything else agrees with that.
YOUNGER = """
    UPDATE journal_events SET outstandings_after = '{10,30}', loan_statuses_after = '{2,2}', backfilled = false
    WHERE OF_ANA AND number = 6;
    UPDATE payment_details SET amount = CASE amount WHEN 30 THEN 20 ELSE 60 END WHERE OF_ANA
"""
SPREADING = [
    (YOUNGER, "payments p-80~: the event 6 does not spread it as the rules do"),
    (
        "UPDATE journal_events SET backfilled = false WHERE OF_ANA;"
        " UPDATE loans SET taken_at = '2099-01-01' WHERE external_id = 'paid~'",
        "payments p-80~: the event 6 does not spread it as the rules do",
    ),
    (
        "UPDATE journal_events SET amount = 150.01, backfilled = false WHERE OF_ANA AND number = 6",
        "payments p-80~: the event 6 does not spread it as the rules do",
    ),
    (
        "UPDATE journal_events SET kind = 8, backfilled = false, loan_ids = '{}', outstandings_after = '{}'"
        " WHERE OF_ANA AND number = 6",
        "payments p-80~: the event 6 does not spread it as the rules do",
    ),
]

ROWS = [
    (
        "UPDATE loans SET outstanding = 49.99 WHERE external_id = 'half~'",
        "loans half~: status 2, outstanding 49.99; the event 6",
    ),
    ("UPDATE loans SET id = 1000000 + id WHERE external_id = 'asked~'", "loans asked~: has no event"),
    ("UPDATE loans SET id = 1000000 + id WHERE external_id = 'asked~'", ": is not there, but has events"),
    ("UPDATE customers SET score = 1000.01 WHERE external_id = 'ana~'", "customers ana~: score 1000.01, debt 50.00"),
    ("UPDATE customers SET status = 2 WHERE external_id = 'ana~'", "customers ana~: score 1000.00, debt 50.00, status 2"),
    ("UPDATE customers SET preapproved_at = now() WHERE external_id = 'ana~'", "customers ana~: score 1000.00"),
    ("UPDATE customers SET version = 2 WHERE external_id = 'ana~'", "customers ana~: score 1000.00"),
    ("UPDATE payments SET total_amount = 998.99 WHERE external_id = 'p-999~'", "payments p-999~: status 2, amount 998.99"),
    ("UPDATE payment_details SET amount = 29.99 WHERE OF_ANA AND amount = 30", "payment_details p-80~: amount 29.99"),
]


@pytest.mark.parametrize("tamperings", [EVENTS, HASHES, SPREADING, ROWS], ids=["events", "hashes", "spreading", "rows"])
def test_what_is_done_to_the_journal_or_without_it_is_found(stack: Stack, tamperings: list[tuple[str, str]]) -> None:
    with a_database(stack, len(tamperings) + 1) as (url, environment):
        with connect(url) as connection:
            for number, (tampering, _) in enumerate(tamperings):
                statement = tampering.replace("OF_ANA", OF_ANA).replace("OF_BO", OF_BO).replace("~", str(number))
                assert connection.execute(statement.encode()).rowcount
        done = run_cli(environment, "audit", check=False)
    assert done.returncode == 1
    for number, (tampering, finding) in enumerate(tamperings):
        assert finding.replace("~", str(number)) in done.stdout, tampering
    # The last portfolio is as it should be.
    for word in ("ana", "bo", "half", "paid", "back", "asked", "p-80", "p-70", "p-999"):
        assert f" {word}{len(tamperings)}:" not in done.stdout
        assert f" {word}{len(tamperings)} " not in done.stdout
