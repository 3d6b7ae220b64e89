"""Files in a local folder."""

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mo_grpc.objects.base import BLOCK, LISTED, NAME, ObjectNotFound, ObjectsUnavailable
from mo_grpc.private_files import create_private


class LocalStore:
    """Files in a folder that only this user can read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """See `ObjectStore.put`: written under another name, synced, and renamed."""
        path = self._path(name)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        size = 0
        with _failures(name):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = await asyncio.to_thread(create_private, part)
        try:
            with file:
                async for chunk in chunks:
                    with _failures(name):
                        size += await asyncio.to_thread(file.write, chunk)
                with _failures(name):
                    await asyncio.to_thread(_sync, file)
            with _failures(name):
                part.replace(path)
                await asyncio.to_thread(_sync_folder, path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return size

    async def size(self, source: str) -> int:
        """See `ObjectStore.size`."""
        path = self._path(source)
        with _failures(source):
            if not path.is_file():
                raise ObjectNotFound(source)
            return path.stat().st_size

    async def read(self, source: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See `ObjectStore.read`."""
        path = self._path(source)
        with _failures(source):
            file = await asyncio.to_thread(path.open, "rb")
        with file:
            file.seek(offset)
            while True:
                with _failures(source):
                    block = await asyncio.to_thread(file.read, BLOCK)
                if not block:
                    return
                yield block

    async def names(self, folder: str) -> AsyncIterator[list[str]]:
        """See `ObjectStore.names`."""
        try:
            with _failures(folder):
                paths = await asyncio.to_thread(list, self._path(folder).iterdir())
        except ObjectNotFound:
            return
        for start in range(0, len(paths), LISTED):
            names = [path.name for path in paths[start : start + LISTED]]
            with _failures(folder):
                for name in names:
                    if name.startswith("."):
                        self._path(folder).joinpath(name).unlink(missing_ok=True)
            yield [f"{folder}/{name}" for name in names if NAME.fullmatch(name)]

    async def delete(self, name: str) -> None:
        """See `ObjectStore.delete`."""
        path = self._path(name)
        with _failures(name):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ObjectNotFound(name)
        path = self._folder / name
        # A link that leads out of the folder is not followed.
        with _failures(name):
            if not path.resolve().is_relative_to(self._folder.resolve()):
                raise ObjectNotFound(name)
        return path


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _failures(source: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ObjectNotFound(source) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # so the file cannot exist
            raise ObjectNotFound(source) from None
        raise ObjectsUnavailable from error
