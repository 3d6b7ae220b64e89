"""Both stores of files do the same: a local folder, and S3 on a real server (moto) over HTTP."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from mo_grpc.config import Settings
from mo_grpc.objects.base import ObjectNotFound, ObjectStore, ObjectsUnavailable
from mo_grpc.objects.local import LocalStore
from mo_grpc.objects.store import open_store
from tests.conftest import free_port
from tests.s3 import an_s3

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with an_s3() as url:
        yield url


def s3_settings(url: str) -> Settings:
    return Settings(
        aws_storage_bucket_name="files",
        aws_access_key_id="id",
        aws_secret_access_key=SecretStr("hush-hush"),
        aws_s3_region_name="us-east-1",
        aws_s3_endpoint_url=url,
        aws_s3_addressing_style="path",
        mo_s3_source_buckets=("partner",),
    )


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return open_store(Settings(mo_data_dir=tmp_path))
    return open_store(s3_settings(request.getfixturevalue("s3_url")))


async def blocks(*content: bytes) -> AsyncIterator[bytes]:
    for block in content:
        yield block


async def read(store: ObjectStore, source: str, offset: int = 0) -> bytes:
    return b"".join([block async for block in store.read(source, offset)])


@pytest.mark.parametrize("content", [b"", b"a,1\n", bytes(range(256)) * 80_000], ids=["empty", "small", "20 MB"])
def test_what_is_put_is_read(store: ObjectStore, content: bytes) -> None:
    async def run() -> None:
        pieces = [content[start : start + MIB] for start in range(0, len(content), MIB)]
        assert await store.put("imports/a.txt", blocks(*pieces)) == len(content)
        assert await store.size("imports/a.txt") == len(content)
        assert await read(store, "imports/a.txt") == content
        for offset in (1, len(content) // 2, len(content) - 1, len(content)):
            if 0 <= offset <= len(content):
                assert await read(store, "imports/a.txt", offset) == content[offset:]

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 9 * MIB], ids=["small", "in parts"])
def test_a_stream_that_breaks_leaves_what_was_there(store: ObjectStore, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * size
        raise ConnectionError

    async def run() -> None:
        with pytest.raises(ConnectionError):
            await store.put("new.txt", broken())
        with pytest.raises(ObjectNotFound):
            await store.size("new.txt")
        await store.put("old.txt", blocks(b"old"))
        with pytest.raises(ConnectionError):
            await store.put("old.txt", broken())
        assert await read(store, "old.txt") == b"old"

    asyncio.run(run())


@pytest.mark.parametrize(
    "source",
    [
        "no.txt",
        "",
        "..",
        "../a",
        "a/../b",
        "/a",
        "a/",
        ".a",
        "a//b",
        "a" * 1024,
        "a/" * 512 + "a",
        "s3://foreign/some/file.txt",
        "s3://",
    ],
)
def test_there_is_no_such_file(store: ObjectStore, source: str) -> None:
    async def run() -> None:
        await store.put("there.txt", blocks(b"x"))
        with pytest.raises(ObjectNotFound):
            await store.size(source)
        with pytest.raises(ObjectNotFound):
            await read(store, source)

    asyncio.run(run())


def test_a_deleted_file_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    async def run() -> None:
        await store.put("a.txt", blocks(b"x"))
        for _ in range(2):
            await store.delete("a.txt")
        with pytest.raises(ObjectNotFound):
            await store.size("a.txt")

    asyncio.run(run())


def test_a_folder_is_listed_and_what_was_never_finished_is_forgotten(store: ObjectStore) -> None:
    async def run() -> list[str]:
        for name in ("imports/day/a.txt", "imports/day/b.txt", "imports/daybreak/c.txt"):
            await store.put(name, blocks(b"x"))
        begin_one(store, "imports/day/d.txt")
        assert unfinished(store) == 1
        return [name async for names in store.names("imports/day") for name in names]

    assert sorted(asyncio.run(run())) == ["imports/day/a.txt", "imports/day/b.txt"]
    assert unfinished(store) == 0


def begin_one(store: ObjectStore, name: str) -> None:
    """Begin to put a file, as somebody does who is killed then."""
    if isinstance(store, LocalStore):
        path = store._folder / name
        path.with_name(f".{path.name}.0123").write_bytes(b"x")
    else:
        store._client.create_multipart_upload(Bucket="files", Key=name)  # type: ignore[attr-defined]


def unfinished(store: ObjectStore) -> int:
    if isinstance(store, LocalStore):
        return len(list(store._folder.rglob(".*")))
    return len(store._client.list_multipart_uploads(Bucket="files").get("Uploads", ()))  # type: ignore[attr-defined]


def test_nothing_is_in_a_folder_that_is_not_there(store: ObjectStore) -> None:
    async def run() -> list[str]:
        return [name async for names in store.names("imports/never") for name in names]

    assert asyncio.run(run()) == []


def test_a_bucket_is_read_when_it_is_ours_or_allowed(s3_url: str) -> None:
    store = open_store(s3_settings(s3_url))
    assert asyncio.run(read(store, "s3://files/some/file.txt")) == b"files"
    assert asyncio.run(read(store, "s3://partner/some/file.txt")) == b"partner"


def test_memory_stays_flat_whatever_the_size(store: ObjectStore) -> None:
    async def many() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(MIB)

    async def run() -> int:
        tracemalloc.start()
        assert await store.put("large.txt", many()) == 64 * MIB
        size = 0
        async for block in store.read("large.txt"):
            size += len(block)
        assert size == 64 * MIB
        return tracemalloc.get_traced_memory()[1]

    try:
        assert asyncio.run(run()) < 48 * MIB  # what was sent, and copies of some parts of 8 MiB
    finally:
        tracemalloc.stop()


def test_a_link_out_of_the_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ObjectNotFound):
        asyncio.run(read(LocalStore(tmp_path / "objects"), "link"))


def test_files_are_this_users_alone(tmp_path: Path) -> None:
    asyncio.run(LocalStore(tmp_path / "objects").put("imports/a.txt", blocks(b"x")))
    assert (tmp_path / "objects" / "imports" / "a.txt").stat().st_mode & 0o077 == 0
    assert (tmp_path / "objects" / "imports").stat().st_mode & 0o077 == 0


def test_a_store_out_of_reach_says_so(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("not a folder")
    for store in (LocalStore(tmp_path / "objects"), open_store(s3_settings(f"http://127.0.0.1:{free_port()}"))):
        with pytest.raises((ObjectsUnavailable, ObjectNotFound)):
            asyncio.run(store.put("a.txt", blocks(b"x")))
        with pytest.raises((ObjectsUnavailable, ObjectNotFound)):
            asyncio.run(store.size("a.txt"))


def test_the_secret_is_not_shown(s3_url: str) -> None:
    assert "hush-hush" not in repr(s3_settings(s3_url))
