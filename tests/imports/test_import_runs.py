"""Imports in the background: followed, cancelled, taken up again by others, each line once."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from mo.imports.v1.imports_pb2 import Import, WatchImportRequest

from tests.conftest import Stack, free_port, run_cli
from tests.databases import connect
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor, to_json
from tests.factories import new_id
from tests.imports.conftest import Own
from tests.imports.files import LINES, bodies, counts, errors, large, over_grpc, upload
from tests.s3 import SETTINGS, an_s3, answers
from tests.waiting import eventually


def watch(door: Door, import_id: str) -> list[Json]:
    """Everything that WatchImport tells, until the import is over."""
    if isinstance(door, RestDoor):
        lines = door.client.get(f"/v1/imports/{import_id}:watch", timeout=100).text.splitlines()
        return [httpx.Response(200, text=line).json() for line in lines]
    assert isinstance(door, GrpcDoor)
    call: grpc.UnaryStreamMultiCallable[Any, Any] = door.channel.unary_stream(
        "/mo.imports.v1.ImportService/WatchImport",
        request_serializer=WatchImportRequest.SerializeToString,
        response_deserializer=Import.FromString,
    )
    return [to_json(found) for found in call(WatchImportRequest(id=import_id), metadata=door.metadata, timeout=100)]


def finished(door: GrpcDoor, import_id: str, seconds: float = 60) -> Json:
    eventually(lambda: door("imports.GetImport", id=import_id)["state"] not in ("PENDING", "RUNNING"), seconds)
    return door("imports.GetImport", id=import_id)


def in_order(found: Json, door: Door) -> None:
    """Each line of a `large` file has had its effect once."""
    assert (found["state"], counts(found)) == ("SUCCEEDED", (LINES, LINES * 99 // 100, LINES // 100))
    assert [error["line_number"] for error in errors(door, found["id"])] == list(range(1, LINES, 100))


def test_a_large_file_goes_on_in_the_background_and_can_be_watched(door: Door) -> None:
    found = upload(door, large())
    assert found["state"] in ("PENDING", "RUNNING")
    seen = watch(door, found["id"])
    assert seen[-1]["state"] == "SUCCEEDED"
    done = [int(each["bytes_done"]) for each in seen]
    assert done == sorted(done)
    assert seen[0]["started_at"] <= seen[-1]["finished_at"] if "started_at" in seen[0] else True
    in_order(seen[-1], door)
    assert door("imports.ListImports", page_size=1)["imports"][0]["id"] == found["id"]


def test_a_stored_file_is_imported_in_the_background(door: Door) -> None:
    source = upload(door, f"{new_id('c')},1\n".encode())["source"]
    once = door.keyed(new_id("key"))
    found = once("imports.CreateImport", source=source)
    assert (found["state"], found["lines_count"]) == ("PENDING", 0)
    assert once("imports.CreateImport", source=source)["id"] == found["id"]
    assert once.replayed
    last = watch(door, found["id"])[-1]
    assert (last["state"], counts(last)) == ("SUCCEEDED", (1, 0, 1))


@pytest.mark.parametrize(
    "source", ["nothing.txt", "../keys", "/etc/passwd", "imports", "a//b", ".hidden", "s3://bucket/key", "é", "a" * 1024]
)
def test_only_stored_files_are_imported(door: Door, source: str) -> None:
    upload(door, b"")
    with pytest.raises(Refused) as refused:
        door("imports.CreateImport", source=source)
    assert refused.value.reason == "SOURCE_NOT_FOUND"


@pytest.mark.parametrize("rpc", ["imports.GetImport", "imports.ListImportErrors", "imports.CancelImport"])
def test_an_import_that_is_not_there_is_not_found(door: Door, rpc: str) -> None:
    with pytest.raises(Refused) as refused:
        door(rpc, id="999999999")
    assert refused.value.reason == "IMPORT_NOT_FOUND"
    with pytest.raises(Refused) as refused:
        door(rpc, id="no-number")
    assert "id" in refused.value.fields


def test_an_upload_that_is_cut_leaves_nothing(over_grpc_door: GrpcDoor, stack: Stack, rest: httpx.Client) -> None:
    def files() -> set[Path]:
        return {path for path in (stack.data_dir / "objects").rglob("*") if path.is_file()}

    before, [newest] = files(), over_grpc_door("imports.ListImports", page_size=1)["imports"]
    begun = set()

    def half() -> Iterator[HttpBody]:
        yield from bodies(large())
        eventually(lambda: bool(files() - before), 20)
        begun.add("grpc")
        raise KeyError("the client dies")

    with pytest.raises(Refused):
        over_grpc(over_grpc_door, half())
    eventually(lambda: files() == before, 20)
    host, port = stack.http_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        head = f"POST /v1/imports/customers HTTP/1.1\r\nhost: x\r\nx-api-key: {stack.api_key}\r\ncontent-type: text/csv\r\n"
        wire.sendall(f"{head}content-length: 5000000\r\n\r\n".encode() + large())
        eventually(lambda: bool(files() - before), 20)
        begun.add("rest")
    eventually(lambda: files() == before, 20)
    assert begun == {"grpc", "rest"}
    assert over_grpc_door("imports.ListImports", page_size=1)["imports"] == [newest]


@pytest.fixture
def over_grpc_door(over_grpc: GrpcDoor) -> GrpcDoor:
    return over_grpc


def test_a_file_over_the_limit_is_refused_and_not_kept(own: Own) -> None:
    with own.server(MO_MAX_IMPORT_BYTES="100000") as (_, door):
        with pytest.raises(Refused) as refused:
            upload(door, large())
        assert (refused.value.reason, refused.value.info["metadata"]) == ("FILE_TOO_LARGE", {"max_bytes": "100000"})
        assert not [path for path in (own.folder / "objects").rglob("*") if path.is_file()]


def test_a_running_import_is_cancelled_and_keeps_what_it_has_created(own: Own) -> None:
    prefix = new_id("c")
    content = large(prefix)
    line = content.splitlines()[LINES // 2 + 1].decode().partition(",")[0]
    with own.server(MO_IMPORT_LEASE_SECONDS="30") as (_, door), ThreadPoolExecutor(1) as pool:
        with own.held(line) as holder:
            found = upload(door, content)
            eventually(holder.reached, 30)
            assert door("imports.GetImport", id=found["id"])["state"] == "RUNNING"
            call = pool.submit(door, "imports.CancelImport", id=found["id"])
            with connect(own.url, autocommit=True) as connection:
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM imports%'"
                eventually(lambda: bool(connection.execute(waits).fetchall()[0][0]), 20)
        cancelled = call.result(30)
        assert cancelled["state"] == "CANCELLED"
        assert 0 < cancelled["lines_count"] < LINES
        with pytest.raises(Refused) as refused:
            door("imports.CancelImport", id=found["id"])
        assert (refused.value.reason, refused.value.info["metadata"]["state"]) == ("IMPORT_OVER", "CANCELLED")
        assert door("imports.GetImport", id=found["id"]) == cancelled
        assert len(errors(door, found["id"])) == cancelled["failed_count"]


def test_what_a_killed_server_leaves_another_takes_up_each_line_once(own: Own) -> None:
    content = large()
    line = content.splitlines()[LINES * 3 // 4 + 1].decode().partition(",")[0]
    with own.server() as (server, door), own.held(line) as holder:
        found = upload(door, content)
        eventually(holder.reached, 30)
        assert 0 < door("imports.GetImport", id=found["id"])["lines_count"] < LINES
        server.process.kill()
        server.process.wait(10)
    with own.server() as (_, door):
        in_order(finished(door, found["id"]), door)
    audit = run_cli(own.environment, "audit", check=False)
    assert audit.returncode == 0, audit.stdout


@contextmanager
def redis(port: str = "") -> Iterator[str]:
    port = port or str(free_port())
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answers(int(port)), 20)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def a_worker(environment: dict[str, str], log: IO[bytes] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "mo_grpc", "worker"]
    with subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server, of Debian's package of that name")
def test_celery_workers_run_the_imports_and_replace_each_other(own: Own) -> None:
    content = large()
    line = content.splitlines()[LINES * 3 // 4 + 1].decode().partition(",")[0]
    with redis() as broker, ExitStack() as workers:
        celery = {"USE_CELERY": "true", "CELERY_BROKER_URL": broker}
        environment = own.environment | celery | {"MO_DATA_DIR": str(own.folder)}
        with own.server(**celery) as (_, door):
            found = upload(door, content)
            with own.held(line) as holder:
                assert door("imports.GetImport", id=found["id"])["state"] == "PENDING", "the server leaves it to the workers"
                first = workers.enter_context(a_worker(environment))
                eventually(holder.reached, 60)
                first.kill()
                first.wait(10)
            assert 0 < door("imports.GetImport", id=found["id"])["lines_count"] < LINES
            workers.enter_context(a_worker(environment))
            in_order(finished(door, found["id"]), door)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server, of Debian's package of that name")
def test_imports_go_on_when_the_broker_is_back(own: Own, tmp_path: Path) -> None:
    """The broker goes away with all its messages; and the disk of the worker's log is full."""
    port, log = str(free_port()), tmp_path / "log"
    celery = {"USE_CELERY": "true", "CELERY_BROKER_URL": f"redis://127.0.0.1:{port}"}
    with log.open("wb") as stderr, own.server(stderr, **celery) as (_, door):

        def told(what: str) -> bool:
            return what in log.read_text()

        with redis(port):
            source = upload(door, f"{new_id('c')},1\n".encode())["source"]
            found = [door("imports.CreateImport", source=source)]
            eventually(lambda: queued(port) > 0, 30)
        found.append(door("imports.CreateImport", source=source))
        eventually(lambda: told('"task": "imports"'), 30)
        environment = own.environment | celery | {"MO_DATA_DIR": str(own.folder)}
        with redis(port), Path("/dev/full").open("wb") as full, a_worker(environment, full):
            for each in found:
                assert counts(finished(door, each["id"])) == (1, 0, 1)
        assert told("background task waits")
        assert not told("background task failed")


def queued(port: str) -> int:
    """How many messages the broker holds for the workers."""
    done = subprocess.run(["redis-cli", "-p", port, "LLEN", "celery"], check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_without_its_broker_an_import_waits_and_can_be_cancelled(own: Own) -> None:
    with own.server(USE_CELERY="true", CELERY_BROKER_URL=f"redis://127.0.0.1:{free_port()}") as (_, door):
        source = upload(door, f"{new_id('c')},1\n".encode())["source"]  # a small one does not need the workers
        found = door("imports.CreateImport", source=source)
        assert door("imports.CancelImport", id=found["id"])["state"] == "CANCELLED"
        assert counts(door("imports.GetImport", id=found["id"])) == (0, 0, 0)


def test_files_are_kept_in_and_read_from_s3(own: Own) -> None:
    with an_s3() as url, own.server(AWS_S3_ENDPOINT_URL=url, **SETTINGS) as (_, door):
        found = upload(door, large())
        in_order(finished(door, found["id"]), door)
        assert not (own.folder / "objects").exists()
        found = door("imports.CreateImport", source="s3://partner/some/file.txt")
        assert counts(finished(door, found["id"])) == (1, 0, 1)
        with pytest.raises(Refused) as refused:
            door("imports.CreateImport", source="s3://foreign/some/file.txt")
        assert refused.value.reason == "SOURCE_NOT_FOUND"
