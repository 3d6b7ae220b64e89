"""How a file arrives: by itself or in a form, once for its key, and never kept when nothing will import it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody

from mo_grpc.imports.form import MAX_FIELD, MAX_FIELDS
from tests.conftest import Stack
from tests.databases import connect, owner
from tests.doors import Door, GrpcDoor, Json, Refused
from tests.factories import new_id
from tests.imports.conftest import Own
from tests.imports.files import bodies, counts, over_grpc, stored, upload
from tests.waiting import eventually


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "application/octet-stream", "multipart/mixed"])
def test_only_text_is_taken(door: Door, stack: Stack, content_type: str) -> None:
    before = stored(stack)
    with pytest.raises(Refused) as refused:
        upload(door, b"a,1\n", content_type)
    assert "content_type" in refused.value.fields
    assert stored(stack) == before


def form(*files: tuple[str, str | None, bytes], **fields: str) -> tuple[bytes, str]:
    """A form with files (field, file name, content), and its content type."""
    request = httpx.Request("POST", "http://x", files=[(field, (name, content)) for field, name, content in files], data=fields)
    return request.read(), request.headers["content-type"]


@pytest.mark.parametrize(
    ("field", "name", "kept"),
    [
        ("file", "may.csv", "may.csv"),
        ("documento", "créditos.txt", "créditos.txt"),
        ("", "../may.csv", "may.csv"),
        ("file", "", ""),
        ("file", None, ""),
    ],
)
def test_a_file_may_come_in_a_form(door: Door, field: str, name: str | None, kept: str) -> None:
    prefix = new_id("c")
    content = "".join(f"{prefix}-{n},{n}\r\n" for n in range(9000)).encode()
    found = upload(door, *form((field, name, content), more="of the form"))
    assert (found["state"], found["file_name"], found["bytes_total"]) == ("SUCCEEDED", kept, str(len(content)))
    assert counts(found) == (9000, 9000, 0)


def test_a_form_may_arrive_byte_by_byte(over_grpc_door: GrpcDoor) -> None:
    content, content_type = form(("file", "a.csv", f"{new_id('c')},1\n".encode()))
    pieces = [HttpBody(content_type=content_type), *(HttpBody(data=content[n : n + 1]) for n in range(len(content)))]
    found = over_grpc(over_grpc_door, iter(pieces))
    assert (found["file_name"], counts(found)) == ("a.csv", (1, 1, 0))


def test_a_files_name_may_be_in_another_encoding(door: Door) -> None:
    content, content_type = form(("file", "cr~ditos.csv", f"{new_id('c')},1\n".encode()))
    found = upload(door, content.replace(b"~", b"\xe9"), content_type)
    assert (found["file_name"], counts(found)) == ("cr\ufffdditos.csv", (1, 1, 0))


@pytest.fixture
def over_grpc_door(over_grpc: GrpcDoor) -> GrpcDoor:
    return over_grpc


FILE = ("file", "a.csv", b"a,1\n")
WHOLE, KIND = form(FILE)
FORMS = {
    "no file": (*form(more="x"), "content_type"),
    "only other fields": (*form(("more", None, b"x")), "Choose a file"),
    "two files": (*form(FILE, ("other", "b.csv", b"b,1\n")), "one file"),
    "too many fields": (*form(FILE, **{f"field{n}": "x" for n in range(MAX_FIELDS + 2)}), "too many"),
    "cut": (WHOLE[:-20], KIND, "did not arrive whole"),
    "damaged": (b"x" + WHOLE, KIND, "damaged"),
    "of another boundary": (WHOLE.replace(b"--", b"--other"), KIND, "damaged"),
    "no boundary": (WHOLE, "multipart/form-data", "Choose a file"),
    "a boundary that is too long": (WHOLE, f"multipart/form-data; boundary={'x' * 300}", "damaged"),
    "nothing": (b"", KIND, "Choose a file"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_has_not_one_file_is_refused_and_not_kept(door: Door, stack: Stack, name: str) -> None:
    content, content_type, reason = FORMS[name]
    before = stored(stack)
    with pytest.raises(Refused) as refused:
        upload(door, content, content_type)
    assert reason in str(refused.value.fields)
    assert stored(stack) == before


LINE = b"x" * 99 + b"\n"


def test_the_limit_is_that_of_the_file_whatever_it_comes_in(own: Own) -> None:
    with own.server(MO_MAX_IMPORT_BYTES="100000") as (_, door):
        assert upload(door, *form(("file", "a.csv", LINE * 1000), more="x" * MAX_FIELD * 2))["failed_count"] == 1000
        for files in ([("file", "a.csv", LINE * 1001)], [("more", None, b"x" * 200_000), FILE]):
            with pytest.raises(Refused) as refused:
                upload(door, *form(*files))
            assert (refused.value.reason, refused.value.info["metadata"]) == ("FILE_TOO_LARGE", {"max_bytes": "100000"})


def test_a_key_makes_an_upload_safe_to_repeat(door: Door, stack: Stack) -> None:
    once, content = door.keyed(new_id("key")), f"{new_id('c')},1\n".encode()
    first = upload(once, content)
    files = stored(stack)
    for again in ((content,), form(("file", "a.csv", content))):
        assert upload(once, *again)["id"] == first["id"]
        assert once.replayed
        assert stored(stack) == files, "what was sent again is not kept"
    with pytest.raises(Refused) as refused:
        upload(once, content + b"more,1\n")
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert stored(stack) == files


def test_what_comes_with_a_used_key_is_never_stored(door: Door, stack: Stack) -> None:
    once, content = door.keyed(new_id("key")), f"{new_id('c')},1\n".encode()
    first = upload(once, content)
    objects = stack.data_dir / "objects"
    objects.rename(objects.with_name("aside"))
    objects.touch()  # so nothing can be stored
    try:
        assert upload(once, content)["id"] == first["id"]
        with pytest.raises(Refused) as refused:
            upload(once, b"other,1\n")
        assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    finally:
        objects.unlink()
        objects.with_name("aside").rename(objects)


def test_a_malformed_key_is_refused_before_the_file_arrives(over_grpc_door: GrpcDoor) -> None:
    def endless() -> Iterator[HttpBody]:
        yield from bodies(b"a,1\n")
        eventually(lambda: bool(refusals), 20)

    refusals: list[Refused] = []
    door = over_grpc_door.keyed("a malformed key")

    def call() -> Json:
        try:
            return over_grpc(door, endless())
        except Refused as error:
            refusals.append(error)
            raise

    with pytest.raises(Refused) as refused:
        call()
    assert "idempotency-key" in refused.value.fields


def test_a_file_whose_import_is_refused_is_not_kept(door: Door, stack: Stack) -> None:
    caller = upload(door, b"")["created_by"]
    before, key = stored(stack), new_id("key")
    with owner(stack.data_dir) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s || ' ' || %s, 0))", [caller, key])
        with pytest.raises(Refused) as refused:
            upload(door.keyed(key), b"a,1\n")
        assert refused.value.reason == "IDEMPOTENCY_KEY_IN_FLIGHT"
        assert stored(stack) == before
        connection.execute("""
            CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'in the way' USING ERRCODE = 'serialization_failure'; END $$;
            CREATE TRIGGER conflict BEFORE INSERT ON imports FOR EACH ROW WHEN (NEW.file_name = 'conflict')
            EXECUTE FUNCTION conflict()
        """)
        connection.commit()
        try:
            with pytest.raises(Refused) as refused:
                upload(door, b"a,1\n", disposition="attachment; filename=conflict")
            assert refused.value.reason == "CONFLICT"
            assert stored(stack) == before
        finally:
            connection.execute("DROP FUNCTION conflict CASCADE")


def test_a_stored_file_that_nothing_imports_is_deleted_days_later(own: Own) -> None:
    old, young = (own.folder / "objects/imports" / f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}" for days in (5, 1))
    for folder in (old, young):
        folder.mkdir(parents=True)
        for name in ("orphan.txt", ".part.txt.0123", "imported.txt"):
            (folder / name).write_text("a,1\n")
    (own.folder / "objects/mine.txt").write_text("a,1\n")
    with connect(own.url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO imports (source, bytes_total, created_by, created_at, state, finished_at)
            VALUES (%s, 4, '', now(), 3, now())""",
            [f"imports/{old.name}/imported.txt"],
        )
    with own.server():
        eventually(lambda: len(list(old.iterdir())) == 1, 20)
    assert [path.name for path in old.iterdir()] == ["imported.txt"]
    assert len(list(young.iterdir())) == 3
    assert (own.folder / "objects/mine.txt").exists()
