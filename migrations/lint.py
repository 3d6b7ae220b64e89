"""Checks that no migration takes a lock for which calls would have to wait: `python migrations/lint.py`.

squawk (https://squawkhq.com) reads the statements of each migration after BASELINE. What was released before is not checked.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from mo_grpc.db.migrate import alembic_config, statements

BASELINE = "0030"

EXCLUDED = (
    "ban-concurrent-index-creation-in-transaction",  # it does not know Alembic's blocks outside the transaction
    "prefer-robust-stmts",  # a migration that was interrupted is undone, but for such blocks
    "require-timeout-settings",  # the migration's connection has them (mo_grpc/db/waiting.py)
    "require-concurrent-index-deletion",
    "transaction-nesting",  # one file may show several transactions
)

SQUAWK = Path(sys.executable).with_name("squawk")


def lint(sql: str, name: str) -> bool:
    """Check some statements; what is wrong is printed."""
    command = [str(SQUAWK), "--pg-version=18", "--stdin-filepath", name, *(f"--exclude={rule}" for rule in EXCLUDED)]
    return subprocess.run(command, input=sql, text=True, check=False).returncode == 0


def main() -> int:
    """Check all; the exit status is 1 if one is wrong."""
    config = partial(alembic_config, make_url("postgresql+psycopg://"))
    found = True
    for step in ScriptDirectory.from_config(config()).walk_revisions(BASELINE, "heads"):
        if step.revision != BASELINE:
            found = lint(statements(config(), str(step.down_revision), step.revision), step.path) and found
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
