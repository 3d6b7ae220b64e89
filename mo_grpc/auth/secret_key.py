"""Whether this process has the key with which the database's secrets were encrypted, and its events sealed."""

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.tokens.rules import sealed_for
from mo_grpc.auth.users import otp
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault, VaultError
from mo_grpc.db.engine import once
from mo_grpc.db.sentences import explain
from mo_grpc.errors import ServiceError

log = structlog.get_logger()

_SIGNING_KEYS = text("SELECT kid, private_key FROM signing_keys WHERE valid_until IS NULL")
_OTP_SECRETS = text("SELECT id, email, otp_secret FROM users WHERE otp_secret IS NOT NULL ORDER BY email")
# A command that somebody ran with another key seals a few; a service that has another key finds none of its own.
_SEALED_BY = text("""
    SELECT DISTINCT sealed_by FROM (
        SELECT sealed_by FROM events WHERE stream = 'changes' ORDER BY number DESC LIMIT 1000
    ) AS newest
""")

_SHOWN = 3


def require_key(settings: Settings) -> None:
    """Look whether the key reads what the database has encrypted, before anything is served or sealed with it.

    Without an answer of the database, what serves starts, says that it is not ready, and waits for the database.

    Raises:
        VaultError: it does not; the message says what to do.
    """
    vault = Vault(settings)

    async def work(connection: AsyncConnection) -> None:
        signing = [(row.private_key, sealed_for(row.kid)) for row in await connection.execute(_SIGNING_KEYS)]
        users = (await connection.execute(_OTP_SECRETS)).all()
        sealed_by = set((await connection.execute(_SEALED_BY)).scalars())
        unread = [row.email for row in users if not _reads(vault, row.otp_secret, otp.sealed_for(row.id))]
        known = {each.name for each in vault.all}
        if unread or (sealed_by and not sealed_by & known) or not all(_reads(vault, *each) for each in signing):
            raise VaultError(_sentence(settings, unread))

    try:
        once(settings, lambda database: database.read(work))
    except (ServiceError, SQLAlchemyError) as error:
        log.warning("the key was not compared with the database's secrets", cause=explain(error) or str(error))


def _reads(vault: Vault, sealed: bytes, purpose: str) -> bool:
    try:
        vault.decrypt(sealed, purpose)
    except VaultError:
        return False
    return True


def _sentence(settings: Settings, unread: list[str]) -> str:
    ours = "SECRET_KEY" if settings.secret_key else f"{settings.mo_data_dir / 'secret.key'}, as SECRET_KEY is not set"
    sentence = (
        f"The database's secrets were encrypted with another key than this service's ({ours}). Start it with the key "
        "of before: as SECRET_KEY, or, if that was changed on purpose, as one of SECRET_KEY_FALLBACKS. If that key is lost, "
        "run `mo-grpc tokens rotate-key --compromised`"
    )
    if unread:
        names = ", ".join(unread[:_SHOWN]) + (f" and {len(unread) - _SHOWN} others" if len(unread) > _SHOWN else "")
        sentence += f" and `mo-grpc users disable-otp EMAIL` for {names}"
    return f"{sentence}."
