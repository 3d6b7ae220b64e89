"""Users with accounts, and how they log in."""

import base64
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import psycopg
import pyotp
import pytest
from argon2 import PasswordHasher

from mo_grpc.auth.users.rules import Role
from tests.conftest import TLS, Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor
from tests.doors import opens as doors_open
from tests.secrets import PASSWORD
from tests.waiting import eventually

_run = uuid.uuid4().hex[:8]
_count = itertools.count(1)

HASH = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)


@dataclass
class User:
    """An account of a test's own."""

    id: int
    email: str


NewUser = Callable[..., User]


@pytest.fixture(autouse=True)
def no_login_failures(stack: Stack) -> None:
    """All tests fail to log in from one address, which would have to wait after a hundred times."""
    rows(stack, "DELETE FROM login_failures WHERE subject LIKE 'address %'")


@pytest.fixture
def new_user(stack: Stack) -> NewUser:
    """Makes accounts with PASSWORD, sooner than the command line does."""

    def make(role: Role = Role.VIEWER, **columns: Any) -> User:
        user = f"login-{_run}-{next(_count)}@example.org"
        values = {"email": user, "role": int(role), "password_hash": HASH} | columns
        values = {"first_name": "", "last_name": "", "staff": True, "must_change_password": False} | values
        names = ", ".join(values)
        places = ", ".join(f"%({name})s" for name in values)
        with owner(stack.data_dir) as connection:
            row = connection.execute(
                f"""INSERT INTO users ({names}, password_changed_at, created_at, updated_at)
                VALUES ({places}, now(), now(), now()) RETURNING id""".encode(),
                values,
            ).fetchone()
        assert row
        return User(row[0], user)

    return make


def basic(email: str, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{email}:{password}".encode()).decode()


@dataclass
class Doors:
    """Opens one of the two public doors with headers of a test's choice."""

    open: Callable[[dict[str, str]], Door]

    def login(self, email: str, password: str = PASSWORD, **request: Any) -> Json:
        """Log in; answers CreateToken's answer."""
        return self.open({"authorization": basic(email, password)})("auth.CreateToken", **request)

    def tokens(self, email: str, password: str = PASSWORD, **request: Any) -> Json:
        """Log in; answers the tokens."""
        answer: Json = self.login(email, password, **request)["tokens"]
        return answer

    def bearer(self, token: str) -> Door:
        return self.open({"authorization": f"Bearer {token}"})

    def user(self, email: str) -> Door:
        """The door of a user who logs in first."""
        return self.bearer(self.tokens(email)["access_token"])


@pytest.fixture(params=["grpc", "rest"])
def doors(request: pytest.FixtureRequest, stack: Stack, grpc_channel: grpc.Channel) -> Iterator[Doors]:
    with ExitStack() as cleanup:

        def open_door(headers: dict[str, str]) -> Door:
            if request.param == "grpc":
                return GrpcDoor(grpc_channel, tuple(headers.items()))
            client = httpx.Client(base_url=stack.http_url, headers=headers, timeout=30, verify=TLS)
            return RestDoor(cleanup.enter_context(client))

        yield Doors(open_door)


@pytest.fixture
def over_doors(grpc_channel: grpc.Channel) -> Doors:
    """The gRPC door alone, for what the door does not matter to."""
    return Doors(lambda headers: GrpcDoor(grpc_channel, tuple(headers.items())))


def refused(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def reason(call: Callable[[], object]) -> str:
    return refused(call).reason


def opens(door: Door) -> bool:
    """Whether the door's token is taken."""
    return doors_open(door, "TOKEN_INVALID")


def totp(secret: str, step: int = 0) -> str:
    """The code of now, or of some steps from now; one of before is made while it is sure to be taken still."""
    if step < 0:
        eventually(lambda: time.time() % 30 < 26, 5)
    return pyotp.TOTP(secret).generate_otp(int(time.time()) // 30 + step)


def rows(stack: Stack, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with owner(stack.data_dir) as connection:
        try:
            return connection.execute(statement.encode(), values or None).fetchall()
        except psycopg.ProgrammingError:  # a statement without rows
            return []
