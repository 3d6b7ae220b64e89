"""The cost of checking an API key, the effect of a flood of fake ones, and whether times reveal what answers do not."""

import asyncio
import base64
import math
import multiprocessing
import random
import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import psycopg
from argon2 import PasswordHasher
from mo.auth.v1.tokens_pb2 import CreateTokenRequest
from mo.auth.v1.tokens_pb2_grpc import TokenServiceStub
from mo.customers.v1.customers_pb2 import GetCustomerRequest
from mo.customers.v1.customers_pb2_grpc import CustomerServiceStub

from benchmarks.client import grpc_call, run
from benchmarks.measure import CUSTOMERS, GET, GRPC_OK, Load, Row
from mo_grpc.auth.api_keys.rules import Credential
from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, database_url
from mo_grpc.server.interceptors.admission import Admission
from mo_grpc.server.state import server_state

CHECKS = 100_000
LIMIT_US = 10.0
FLOOD_CALLS = 20_000
SAMPLES = 4000
LOGINS = 40


def keys(load: Load) -> list[Row]:
    """The check of a key, and whether response times reveal what answers do not."""
    return [*asyncio.run(_checks(load)), _ids_and_secrets(load), _emails_and_passwords(load)]


class _Context:
    """The part of a call that the check reads."""

    def __init__(self, key: str) -> None:
        self._metadata = (("user-agent", "grpc-python"), ("x-api-key", key))

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


async def _checks(load: Load) -> list[Row]:
    """The interceptor's own work for a key that was seen before, without and with limits."""
    settings = Settings()
    database = Database(database_url(settings), 2)
    rows = []
    try:
        for name, columns in (
            ("without limits", {}),
            ("with a network, a rate and a quota", {"networks": ["127.0.0.0/8"], "rate": 10**9, "quota": 10**9}),
        ):
            with load.stack.connect() as connection:
                connection.execute(
                    """UPDATE api_keys SET allowed_networks = %(networks)s::text[]::cidr[], calls_per_second = %(rate)s,
                    calls_per_day = %(quota)s""",
                    {"networks": [], "rate": 0, "quota": 0} | columns,
                )
            async with server_state(settings, database) as state:
                while not state.keys.is_current:  # noqa: ASYNC110 - nothing else waits for it
                    await asyncio.sleep(0.01)
                check: Any = Admission(settings, state.keys, state.tokens, state.limits, state.refusals, state.addresses).enter
                context = _Context(load.stack.key)
                await check(f"/{GET}", context)
                started = time.perf_counter()
                for _ in range(CHECKS):
                    await check(f"/{GET}", context)
                cost = (time.perf_counter() - started) / CHECKS * 1e6
            rows.append(Row(f"the check of a key {name}", "µs", cost, "what it may cost", LIMIT_US, 1.0, at_most=True))
    finally:
        await database.close()
        with load.stack.connect() as connection:
            connection.execute("UPDATE api_keys SET allowed_networks = '{}', calls_per_second = 0, calls_per_day = 0")
    return rows


def flood(load: Load) -> Row:
    """The calls of a real key beside a flood of fake ones, against beside as many good calls."""
    good = [grpc_call(GET, GetCustomerRequest(external_id=f"bench-{n % CUSTOMERS + 1}"), load.stack.key) for n in range(5000)]
    request = GetCustomerRequest(external_id="bench-1")
    fakes = [grpc_call(GET, request, str(Credential.generate())) for _ in range(FLOOD_CALLS)]
    rates: dict[str, list[float]] = {"fake": [], "good": []}
    queries = 0
    for _ in range(3):
        for name, calls in (("fake", fakes), ("good", good * (FLOOD_CALLS // len(good)))):
            before = _transactions(load)
            flood = multiprocessing.get_context("fork").Process(target=_run_flood, args=(load.stack.service_address, calls))
            flood.start()
            result = run([load.stack.service_address], good, 8, GRPC_OK)
            flood.join()
            assert not result.failed
            rates[name].append(result.rate)
            if name == "fake":
                queries = _transactions(load) - before
    detail = f"{queries:,} transactions for {FLOOD_CALLS:,} fake keys beside {len(good):,} good calls"
    figure, limit = (statistics.median(rates[name]) for name in ("fake", "good"))
    return Row("a real key beside a flood of fake ones", "calls/s", figure, "beside good calls", limit, 0.9, detail=detail)


def _run_flood(address: str, calls: list[Any]) -> None:
    run([address], calls, 32, GRPC_OK)


def _transactions(load: Load) -> int:
    time.sleep(1.2)  # PostgreSQL's statistics are a second behind
    with load.stack.connect() as connection:
        row = connection.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row
    return int(row[0])


def _ids_and_secrets(load: Load) -> Row:
    """A key whose id is unknown, against one whose secret is wrong."""
    found = Credential.parse(load.stack.key)
    assert found
    with grpc.insecure_channel(load.stack.service_address) as channel:
        stub = CustomerServiceStub(channel)
        request = GetCustomerRequest(external_id="bench-1")

        def refused(credential: Credential) -> None:
            _refused(lambda: stub.GetCustomer(request, metadata=(("x-api-key", str(credential)),)))

        unknown, wrong = _interleaved(
            SAMPLES, lambda: refused(Credential.generate()), lambda: refused(Credential(found.id, Credential.generate().secret))
        )
    return _compared("an unknown id of a key", unknown, "a wrong secret", wrong)


def _emails_and_passwords(load: Load) -> Row:
    """A login with an unknown e-mail, against one with a wrong password."""
    password_hash = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1).hash("harbour lantern 42")
    run_id = uuid.uuid4().hex[:8]
    with load.stack.connect() as connection:
        _add_people(connection, run_id, password_hash)
    with grpc.insecure_channel(load.stack.service_address) as channel:
        stub = TokenServiceStub(channel)
        numbers = iter(range(10 * LOGINS))

        def refused(name: str) -> None:
            basic = base64.b64encode(f"{name}-{run_id}-{next(numbers)}@example.org:wrong password".encode()).decode()
            with load.stack.connect() as connection:
                connection.execute("DELETE FROM login_failures")
            _refused(lambda: stub.CreateToken(CreateTokenRequest(), metadata=(("authorization", f"Basic {basic}"),)))

        unknown, wrong = _interleaved(LOGINS, lambda: refused("nobody"), lambda: refused("person"))
    return _compared("an unknown e-mail", unknown, "a wrong password", wrong)


def _add_people(connection: "psycopg.Connection[Any]", run_id: str, password_hash: str) -> None:
    connection.execute(
        """
        INSERT INTO users (email, first_name, last_name, role, staff, password_hash, must_change_password, password_changed_at,
            created_at, updated_at)
        SELECT 'person-' || %s || '-' || n || '@example.org', '', '', 1, true, %s, false, now(), now(), now()
        FROM generate_series(0, %s) AS n
        """,
        [run_id, password_hash, 10 * LOGINS],
    )


def _refused(call: Callable[[], object]) -> None:
    try:
        call()
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return
        raise
    raise AssertionError("it was let in")


def _interleaved(count: int, *kinds: Callable[[], None]) -> list[list[float]]:
    """Seconds of this many calls of each kind, in a random order."""
    seconds: list[list[float]] = [[] for _ in kinds]
    for call in kinds:
        call()
    for _ in range(count):
        for place in random.sample(range(len(kinds)), len(kinds)):
            started = time.perf_counter()
            kinds[place]()
            seconds[place].append(time.perf_counter() - started)
    return seconds


def _compared(name: str, ours: list[float], against: str, theirs: list[float]) -> Row:
    """The medians, and by how many standard deviations the ranks of the two differ (Mann and Whitney's U)."""
    ranked = sorted([(seconds, 0) for seconds in ours] + [(seconds, 1) for seconds in theirs])
    rank_sum = sum(rank for rank, (_, kind) in enumerate(ranked, 1) if kind == 0)
    n, m = len(ours), len(theirs)
    z = (rank_sum - n * (n + m + 1) / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    figure, limit = (statistics.median(seconds) * 1000 for seconds in (ours, theirs))
    detail = f"{n:,} each, in turns; ranks differ by {z:+.1f} standard deviations"
    return Row(name, "ms", figure, against, limit, 1.05, at_most=True, detail=detail)
