"""Encryption of what the service must be able to read back: signing keys and the secrets of one-time codes.

The database holds ciphertext alone. The key is derived (HKDF, RFC 5869) from `SECRET_KEY`, which is the same on every host, or
from a file of the data folder, made at the first need and readable by its owner alone.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mo_grpc.config import Settings
from mo_grpc.private_files import create_private

_NONCE_BYTES = 12


class VaultError(Exception):
    """A secret cannot be read; the message says what to do, and holds no secret."""


class Vault:
    """Encrypts and decrypts with AES-256-GCM; `purpose` binds a ciphertext to its row, so that none stands in for another.

    What was encrypted or hashed under one of SECRET_KEY_FALLBACKS is still read; what is new is under the key of now.
    """

    def __init__(self, settings: Settings) -> None:
        self._setting = settings.secret_key
        self._path = settings.mo_data_dir / "secret.key"
        older = [{"secret_key": key, "secret_key_fallbacks": ()} for key in settings.secret_key_fallbacks]
        self.all: tuple[Vault, ...] = (self, *(Vault(settings.model_copy(update=each)) for each in older))

    def encrypt(self, plain: bytes, purpose: str) -> bytes:
        """Encrypt, with a fresh nonce in front."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, purpose.encode())

    def decrypt(self, sealed: bytes, purpose: str) -> bytes:
        """Decrypt.

        Raises:
            VaultError: it was encrypted with another key, or for another purpose.
        """
        for vault in self.all:
            with suppress(InvalidTag):
                return vault._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode())
        raise VaultError("A secret in the database was encrypted with another key: every server needs the same SECRET_KEY.")

    def digest(self, plain: bytes, purpose: str) -> bytes:
        """A keyed hash (HMAC-SHA-256), for secrets too short for a plain one."""
        return hmac.digest(self._digest_key, purpose.encode() + b"\0" + plain, hashlib.sha256)

    def digests(self, plain: bytes, purpose: str) -> list[bytes]:
        """What `digest` answers now, and what it answered under the keys before."""
        return [vault.digest(plain, purpose) for vault in self.all]

    @cached_property
    def name(self) -> str:
        """Tells one key from another, and nothing of either."""
        return self.digest(b"", "name").hex()[:16]

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(self._derived("encryption"))

    @cached_property
    def _digest_key(self) -> bytes:
        return self._derived("digest")

    def _derived(self, use: str) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt=None, info=f"mo-grpc {use}".encode()).derive(self._secret)

    @cached_property
    def _secret(self) -> bytes:
        if self._setting is not None:
            return self._setting.get_secret_value().encode()
        if not self._path.exists():
            _publish(self._path, secrets.token_urlsafe(48).encode())
        if self._path.stat().st_mode & 0o077:
            raise VaultError(f"{self._path} can be read by others: `chmod 600` it, or set SECRET_KEY.")
        return self._path.read_bytes()


def vaults(settings: Settings) -> dict[str, Vault]:
    """The vault of now, and those of the keys that were in use before, by name."""
    return {vault.name: vault for vault in Vault(settings).all}


def _publish(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, unless another process was quicker; then that one's content is used."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with create_private(draft) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()
