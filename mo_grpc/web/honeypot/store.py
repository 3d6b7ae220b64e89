"""Every SQL statement of the honeypot."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.web.honeypot.rules import KeptAttempt

_ADD = text("""
    INSERT INTO honeypot_attempts (at, address, user_agent, path, username)
    SELECT clock_timestamp(), address, user_agent, path, username
    FROM unnest(CAST(:addresses AS text[]), CAST(:user_agents AS text[]), CAST(:paths AS text[]), CAST(:usernames AS text[]))
        AS new (address, user_agent, path, username)
""")


async def add_attempts(connection: AsyncConnection, attempts: Sequence[KeptAttempt]) -> None:
    """Record attempts."""
    await connection.execute(
        _ADD,
        {
            "addresses": [each.address for each in attempts],
            "user_agents": [each.user_agent for each in attempts],
            "paths": [each.path for each in attempts],
            "usernames": [each.username for each in attempts],
        },
    )
