"""What is kept for a time only, and what of it goes."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mo_grpc.process.tasks import Tasks
from mo_grpc.server.state import ServerState
from tests.conftest import run_cli
from tests.databases import connect
from tests.process.conftest import Own, run
from tests.waiting import until


def an_upload(folder: Path, days: int, name: str) -> Path:
    """A file that was uploaded so many days ago."""
    path = folder / "objects" / "imports" / f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody,1\n")
    return path


def source(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder / "objects"))


@pytest.mark.usefixtures("at_once")
def test_what_was_kept_for_long_enough_goes_and_the_audit_is_content(own: Own, tmp_path: Path) -> None:
    old, young, running, unknown, fresh = (
        an_upload(tmp_path, days, name)
        for days, name in ((91, "old.txt"), (89, "young.txt"), (95, "running.txt"), (3, "unknown.txt"), (1, "fresh.txt"))
    )
    elsewhere = tmp_path / "objects" / "partner" / "old.txt"
    elsewhere.parent.mkdir()
    elsewhere.write_text("somebody,1\n")
    an_import = """
        INSERT INTO imports (source, state, bytes_total, bytes_done, created_by, created_at, finished_at, lines_count,
            failed_count, lease_owner, lease_until)
        SELECT source, CASE WHEN days IS NULL THEN 2 ELSE 3 END, 11, 11, 'x', now() - interval '400 days',
            now() - days * interval '1 day', errors, errors, CASE WHEN days IS NULL THEN 'x' END,
            CASE WHEN days IS NULL THEN now() + interval '1 hour' END
        FROM (VALUES (%s, 366, 1500), (%s, 364, 3), (%s, NULL, 0), (%s, 1, 0)) AS new (source, days, errors)
    """
    with connect(own.url) as connection:
        connection.execute(an_import, [*(source(path, tmp_path) for path in (old, young, running)), "partner/old.txt"])
        connection.execute("""
            INSERT INTO import_errors (import_id, line_number, external_id, field, reason, message)
            SELECT id, n, '', '', 1, '' FROM imports, generate_series(1, failed_count) AS n
        """)
        connection.execute("""
            INSERT INTO honeypot_attempts (at, address, user_agent, path, username)
            SELECT now() - days * interval '1 day', '192.0.2.1', '', '', '' FROM unnest(ARRAY[89, 91, 92]) AS days
        """)

    def left() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        with connect(own.url) as connection:
            errors = connection.execute(
                "SELECT source, count(*) FROM import_errors JOIN imports ON imports.id = import_id GROUP BY source"
            ).fetchall()
            return errors, connection.execute("SELECT count(*) FROM honeypot_attempts").fetchall()

    wanted = [(source(young, tmp_path), 3)], [(1,)]

    async def work(state: ServerState, tasks: Tasks) -> None:
        await until(lambda: left() == wanted and not old.exists() and not unknown.exists())
        await asyncio.sleep(0)

    run(own, tmp_path, work)
    assert left() == wanted
    assert all(path.exists() for path in (young, running, fresh, elsewhere))
    done = run_cli(own.environment, "audit", check=False)
    assert done.returncode == 0, done.stdout
    with connect(own.url) as connection:
        connection.execute("DELETE FROM import_errors")
        connection.execute("DELETE FROM imports")
        connection.execute("DELETE FROM honeypot_attempts")
