"""Passwords hashed by Argon2id (RFC 9106), in a few threads: a hash takes a core and megabytes for tens of milliseconds."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mo_grpc.auth.users.rules import normal_password
from mo_grpc.config import Settings
from mo_grpc.errors import Overloaded

T = TypeVar("T")

AT_ONCE = 2
"""Hashes at the same time in one process: they take at most this many times MO_PASSWORD_MEMORY_KIB."""

MAX_WAITING = 64
"""Logins that wait for their turn; more are refused and may retry, since they would wait for seconds."""


class Passwords:
    """Hashes and verifies; an absent hash takes as long as a wrong password."""

    def __init__(self, settings: Settings) -> None:
        # One lane: it is the number of logins, not of lanes, that fills the cores.
        self._hasher = PasswordHasher(
            time_cost=settings.mo_password_passes, memory_cost=settings.mo_password_memory_kib, parallelism=1
        )
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises:
            Overloaded: too many others wait.
        """
        return await self._run(lambda: self._hasher.hash(normal_password(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is that of the hash; False, after the same time, where there is no hash.

        Raises:
            Overloaded: too many others wait.
        """
        return await self._run(lambda: self._verify(password_hash, password))

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made at another cost than the settings now ask for."""
        return self._hasher.check_needs_rehash(password_hash)

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash("nobody has this password")

    def _verify(self, password_hash: str | None, password: str) -> bool:
        nobody = self._nobody  # made for the first caller, whoever that is
        try:
            return self._hasher.verify(password_hash or nobody, normal_password(password)) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
