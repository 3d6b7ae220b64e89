"""A database URL with several hosts, as libpq reads it: the service finds the one that leads."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from psycopg import sql

from mo_grpc.config import Settings
from mo_grpc.db.embedded import ROLE, SERVICE_ROLE, EmbeddedPostgres, embedded_url
from tests.conftest import Stack, run_cli
from tests.databases import connect
from tests.doors import GrpcDoor
from tests.factories import a_customer
from tests.servers import a_server


@pytest.fixture
def hosts(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Each role's URL of three: one that is down, one that cannot write, and the stack's."""
    folder = tmp_path_factory.mktemp("pg")
    leaders = {role: embedded_url(stack.data_dir, role) for role in (ROLE, SERVICE_ROLE)}
    with EmbeddedPostgres(folder):
        follower = embedded_url(folder, "postgres")
        with connect(follower, autocommit=True) as superuser:
            for verb, role in (("ALTER", ROLE), ("CREATE", SERVICE_ROLE)):
                change = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
                names = sql.SQL(verb), sql.Identifier(role), sql.Literal(leaders[role].password)
                superuser.execute(change.format(*names))
            superuser.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            superuser.execute("SELECT pg_reload_conf()")
        yield {
            role: f"postgresql://{role}:{leader.password}@"
            + ",".join(quote(str(name), safe="") for name in ("/nowhere", follower.query["host"], leader.query["host"]))
            + "/mo?target_session_attrs=read-write"
            for role, leader in leaders.items()
        }


def test_the_service_its_notifications_and_migrations_find_the_host_that_leads(
    stack: Stack, hosts: dict[str, str], over_grpc: GrpcDoor
) -> None:
    urls = {"MO_DATABASE_URL": hosts[SERVICE_ROLE], "MO_MIGRATION_DATABASE_URL": hosts[ROLE]}
    run_cli(stack.environment | urls, "migrate")
    # It is healthy once it follows the notifications.
    with a_server(stack.environment, MO_DATABASE_URL=hosts[SERVICE_ROLE]) as server:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        customer = a_customer(door)
        assert over_grpc("customers.GetCustomer", external_id=customer)["external_id"] == customer


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://mo:p%40@a,b/mo?target_session_attrs=read-write", "a,b", ","),
        ("postgres://mo@a:1,[::1]:2/mo", "a,::1", "1,2"),
        ("postgresql+psycopg://mo@a:1,b:2/mo?sslmode=require", "a,b", "1,2"),
    ],
)
def test_several_hosts_are_handed_on_as_they_are(url: str, host: str, port: str) -> None:
    found = Settings.model_validate({"mo_database_url": url}).external_database_url
    assert found
    _, parameters = found.get_dialect()().create_connect_args(found)
    assert (parameters["host"], parameters["port"], parameters["user"]) == (host, port, "mo")


@pytest.mark.parametrize("url", ["postgresql://mo:hush@a:x,b/mo?nonsense=1", "mysql://a,b/mo", "postgresql:a,b"])
def test_what_is_no_such_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="must be a postgresql:// URL") as refused:
        Settings.model_validate({"mo_database_url": url})
    assert "hush" not in "".join(error["msg"] for error in refused.value.errors())  # type: ignore[attr-defined]
