"""A full disk under the logs takes the logs, and nothing else: every part of the service goes on, and mends itself as ever."""

import signal
from pathlib import Path

import grpc
import httpx

from mo_grpc.db.embedded import embedded_url
from tests.conftest import KEY, TLS, read_greeting, run_cli, settings_environment
from tests.databases import connect, open_to_all
from tests.doors import GrpcDoor, Refused, RestDoor
from tests.factories import a_customer
from tests.run.test_up import an_up
from tests.waiting import eventually

FULL = Path("/dev/full")


def reason(door: GrpcDoor) -> str:
    """Why a call is refused, if it is."""
    try:
        door("customers.ListCustomers", page_size=1)
    except Refused as refused:
        return refused.reason if refused.details else refused.message
    return ""


def test_every_part_goes_on_while_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    for part in ("postgres", "serve", "web", "edge"):
        (tmp_path / "log" / f"{part}.log").symlink_to(FULL)
    environment = settings_environment(tmp_path, MO_LOG_LEVEL="debug", MO_ACCESS_LOG=str(FULL))
    with an_up(environment) as up:
        key = KEY.findall(read_greeting(up))[0]
        with (
            grpc.insecure_channel(f"127.0.0.1:{environment['MO_GRPC_PORT']}") as channel,
            httpx.Client(
                base_url=f"http://127.0.0.1:{environment['MO_HTTP_PORT']}", headers={"x-api-key": key}, timeout=30, verify=TLS
            ) as client,
        ):
            door = GrpcDoor(channel, (("x-api-key", key),))
            # The database goes away and comes back: followers and calls log that it does.
            url = embedded_url(tmp_path)
            with connect(url.set(database="template1"), autocommit=True) as admin:
                open_to_all(admin, url.database, to_all=False)
                eventually(lambda: reason(door) == "DATABASE_UNAVAILABLE", 20)
                open_to_all(admin, url.database, to_all=True)
            eventually(lambda: reason(door) == "", 30)
            eventually(lambda: client.get("/readyz").status_code == 200, 30)
            a_customer(RestDoor(client))
            assert client.get("/swagger/").status_code == 200
            assert client.get("/nothing").status_code == 404
            # A fault of ours, too, is told as ever, though its traceback goes nowhere.
            with connect(url) as owner:
                owner.execute("REVOKE SELECT ON customers FROM mo_service")
            assert reason(door) == "INTERNAL_ERROR"
            with connect(url) as owner:
                owner.execute("GRANT SELECT ON customers TO mo_service")
            assert reason(door) == ""
            # The followers live.
            run_cli(environment, "keys", "revoke", key.split("_")[1])
            eventually(lambda: reason(door) == "API_KEY_INVALID", 20)
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
