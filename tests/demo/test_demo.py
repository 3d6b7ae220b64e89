"""`mo-grpc demo`: a believable portfolio, through the public API, that is made once."""

import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.conftest import Stack, run_cli
from tests.databases import connect, migrated_database, owner
from tests.doors import Door, GrpcDoor, Json
from tests.invariants import assert_sound
from tests.waiting import eventually

SIZE = 24
SEED = 7001
UNTIL = "2025-03-31"
END = datetime(2025, 3, 31, tzinfo=UTC)

NO_OPEN_KEYS = "SELECT count(*), count(*) FILTER (WHERE revoked_at IS NULL) FROM api_keys WHERE name = 'mo-grpc demo'"


def demo(stack: Stack, *, customers: int = SIZE, seed: int = SEED, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return stack.cli("demo", "--customers", str(customers), "--seed", str(seed), "--until", UNTIL, check=check)


def names(seed: int = SEED, size: int = SIZE) -> list[str]:
    return [f"demo-{seed}-customer-{number:04}" for number in range(1, size + 1)]


def everything(door: Door, customers: list[str]) -> dict[str, list[Json]]:
    """All that the API shows of these customers."""
    found: dict[str, list[Json]] = {"customers": [], "loans": [], "payments": []}
    for name in customers:
        found["customers"].append(door("customers.GetCustomer", external_id=name))
        found["loans"] += door("loans.ListLoans", customer_external_id=name, page_size=1000)["loans"]
        found["payments"] += door("payments.ListPayments", customer_external_id=name, page_size=1000)["payments"]
    return found


def rows(url: URL, seed: int) -> dict[str, list[Any]]:
    """A demo's rows in the order of their ids; the ids themselves differ from database to database."""
    statements = {
        "customers": "SELECT external_id, status, score, preapproved_at, created_at, updated_at",
        "loans": "SELECT external_id, status, amount, outstanding, taken_at, maximum_payment_date, created_at, updated_at",
        "payments": "SELECT external_id, status, total_amount, paid_at, rejected_at, rejection_reason, created_at, updated_at",
    }
    with connect(url) as connection:
        return {
            table: connection.execute(
                f"{statement} FROM {table} WHERE external_id LIKE %s ORDER BY id".encode(), [f"demo-{seed}-%"]
            ).fetchall()
            for table, statement in statements.items()
        }


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def open_keys(data_dir: Path) -> tuple[int, int]:
    """How many keys demos have made, and how many of them are still open."""
    with owner(data_dir) as connection:
        row = connection.execute(NO_OPEN_KEYS.encode()).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@pytest.fixture(scope="module")
def first_run(stack: Stack) -> "subprocess.CompletedProcess[str]":
    return demo(stack)


def test_there_is_some_of_everything(first_run: object, door: Door) -> None:
    found = everything(door, names())
    assert {customer["status"] for customer in found["customers"]} == {"ACTIVE", "INACTIVE"}
    assert {loan["status"] for loan in found["loans"]} == {"PENDING", "ACTIVE", "REJECTED", "PAID"}
    assert {payment["status"] for payment in found["payments"]} == {"COMPLETED", "REJECTED"}
    kinds = Counter(payment["rejection"]["kind"] for payment in found["payments"] if "rejection" in payment)
    assert set(kinds) == {"INSUFFICIENT_DEBT", "BOUNCED"}
    assert len({customer["score"] for customer in found["customers"]}) > 3
    assert any("preapproved_at" in customer for customer in found["customers"])
    assert all(loan["contract_version"] for loan in found["loans"])
    assert any(loan["status"] == "ACTIVE" and moment(loan["maximum_payment_date"]) < END for loan in found["loans"])
    # Direct debits run at one hour; late payers come when they like.
    assert len({moment(payment["created_at"]).hour for payment in found["payments"]}) > 3


def test_the_run_tells_what_there_is(first_run: "subprocess.CompletedProcess[str]", over_grpc: GrpcDoor) -> None:
    found = everything(over_grpc, names())
    lines = [line.strip("│ ").split() for line in first_run.stdout.splitlines()]
    told = f"Created: customers {SIZE}, loans {len(found['loans'])}, payments {len(found['payments'])}. Refused: "
    assert first_run.stdout.startswith(told)
    for kind in found.values():
        for status, count in Counter(item["status"] for item in kind).items():
            assert any(status in line and line[-1] == str(count) for line in lines), (status, count)
    active = [loan for loan in found["loans"] if loan["status"] == "ACTIVE"]
    owed = sum(Decimal(loan["outstanding"]) for loan in active)
    assert ["outstanding", "│", "on", "ACTIVE", "loans", "│", f"{owed:,.2f}"] in lines
    overdue = [loan["external_id"] for loan in active if moment(loan["maximum_payment_date"]) < END]
    assert any(line[0:2] == ["overdue", "loans"] and line[-1] == str(len(overdue)) for line in lines)
    assert first_run.stdout.splitlines()[-2:] == [
        f"To begin with, a customer with a debt: {min(loan['customer_external_id'] for loan in active)}",
        f"To begin with, an overdue loan: {min(overdue)}",
    ]
    assert "100%" in first_run.stderr


@pytest.mark.parametrize("kind", ["customers", "loans", "payments"])
def test_a_year_in_the_order_in_which_it_went_by(first_run: object, over_grpc: GrpcDoor, kind: str) -> None:
    count = len(everything(over_grpc, names())[kind])
    seen: list[datetime] = []
    token = ""
    while len(seen) < count:
        page = over_grpc(f"{kind}.List{kind.capitalize()}", page_size=1000, page_token=token)
        seen += [moment(item["created_at"]) for item in page[kind] if item["external_id"].startswith(f"demo-{SEED}-")]
        token = page["next_page_token"]
        assert token or len(seen) == count
    assert seen == sorted(seen, reverse=True)
    assert END - timedelta(days=365) <= seen[-1] <= seen[0] < END
    assert seen[0] - seen[-1] > timedelta(days=250)


def test_each_thing_has_its_time(first_run: object, over_grpc: GrpcDoor) -> None:
    found = everything(over_grpc, names())
    for loan in found["loans"]:
        assert ("taken_at" in loan) == (loan["status"] in {"ACTIVE", "PAID"})
        assert moment(loan["created_at"]) < moment(loan.get("taken_at", UNTIL + "T00:00:00Z"))
        assert moment(loan["updated_at"]) < END
    for payment in found["payments"]:
        bounced = payment.get("rejection", {}).get("kind") == "BOUNCED"
        if bounced or payment["status"] == "COMPLETED":
            assert payment["paid_at"] == payment["created_at"]
            assert payment["payment_details"]
        if bounced:
            assert moment(payment["paid_at"]) < moment(payment["rejected_at"]) < END


def test_the_books_are_sound(stack: Stack, first_run: object, over_grpc: GrpcDoor) -> None:
    assert_sound(stack.data_dir, *names())
    for name in names():
        loans = over_grpc("loans.ListLoans", customer_external_id=name, page_size=1000)["loans"]
        debt = sum(Decimal(loan["outstanding"]) for loan in loans if loan["status"] in {"PENDING", "ACTIVE"})
        balance = over_grpc("customers.GetCustomerBalance", external_id=name)
        assert Decimal(balance["total_debt"]) == debt
        assert Decimal(balance["available_amount"]) == Decimal(balance["score"]) - debt


def test_a_second_run_creates_nothing(stack: Stack, first_run: object, over_grpc: GrpcDoor) -> None:
    before = everything(over_grpc, names())
    second = demo(stack)
    assert second.stdout.startswith("All of it was there already; nothing was created.\n")
    assert everything(over_grpc, names()) == before
    made, still_open = open_keys(stack.data_dir)
    assert made >= 2
    assert still_open == 0


def test_more_customers_and_other_seeds_add_to_it(stack: Stack, first_run: object, over_grpc: GrpcDoor) -> None:
    before = everything(over_grpc, names())
    other = demo(stack, customers=2, seed=SEED + 1)
    assert other.stdout.startswith("Created: customers 2,")
    assert "There already" not in other.stdout
    more = demo(stack, customers=3, seed=SEED + 1)
    assert more.stdout.startswith("Created: customers 1,")
    assert "There already: " in more.stdout
    assert everything(over_grpc, names()) == before
    assert_sound(stack.data_dir, *names(SEED + 1, 3))


def test_an_interrupted_run_goes_on_where_it_stopped(stack: Stack, first_run: object) -> None:
    """And tells the same story, to the second, as a run that was not interrupted, in another database."""
    with migrated_database(stack.data_dir) as url:
        environment = stack.environment | {"MO_DATABASE_URL": url.render_as_string(hide_password=False)}
        command = ("demo", "--customers", str(SIZE), "--seed", str(SEED), "--until", UNTIL)
        with connect(url) as connection:
            connection.execute("""
                CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
                CREATE TRIGGER broken BEFORE INSERT ON payments FOR EACH ROW
                WHEN (NEW.external_id ~ '-0008-02$') EXECUTE FUNCTION broken();
            """)
        stopped = run_cli(environment, *command, check=False)
        assert stopped.returncode == 1
        assert "The demo stopped: The service failed" in stopped.stderr
        assert stopped.stderr.endswith("Run it again, and it goes on from there.\n")
        assert stopped.stdout == ""
        with connect(url) as connection:
            keys = connection.execute(NO_OPEN_KEYS.encode()).fetchone()
            connection.execute("DROP FUNCTION broken CASCADE")
        assert keys == (1, 0)
        resumed = run_cli(environment, *command)
        assert "There already: " in resumed.stdout
        with owner(stack.data_dir) as connection:
            database = connection.info.dbname
        uninterrupted = rows(url.set(database=database), SEED)
        assert len(uninterrupted["payments"]) > 100
        assert rows(url, SEED) == uninterrupted


def test_ctrl_c_leaves_no_open_key(stack: Stack, first_run: object) -> None:
    command = [sys.executable, "-m", "mo_grpc", "demo", "--customers", "500", "--seed", str(SEED + 2), "--until", UNTIL]
    made, _ = open_keys(stack.data_dir)
    with subprocess.Popen(command, env=stack.environment, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: open_keys(stack.data_dir) == (made + 1, 1), 30)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert open_keys(stack.data_dir) == (made + 1, 0)


@pytest.mark.parametrize("options", [("--until", "2999-01-01"), ("--until", "1999-12-31"), ("--customers", "0")])
def test_impossible_options_are_refused(stack: Stack, options: tuple[str, str]) -> None:
    refused = stack.cli("demo", *options, check=False)
    assert refused.returncode == 2
    assert options[0] in refused.stderr
