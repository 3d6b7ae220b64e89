"""The honeypot's attempts and the errors of imports are kept for a time only."""

from alembic import op

from mo_grpc.db.indexes import create_index

revision = "0050"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE imports ADD COLUMN IF NOT EXISTS errors_removed_at timestamptz")
    op.execute("GRANT UPDATE (errors_removed_at) ON imports TO mo_service")
    op.execute("GRANT DELETE ON import_errors, honeypot_attempts TO mo_service")
    # Whoever deletes rows locks them first, which takes the right to change a column.
    op.execute("GRANT UPDATE (at) ON honeypot_attempts TO mo_service")
    create_index("honeypot_attempts_at_idx", "honeypot_attempts (at)")
    create_index("imports_with_errors_idx", "imports (finished_at) WHERE failed_count > 0 AND errors_removed_at IS NULL")
    create_index("imports_errors_removed_at_idx", "imports (errors_removed_at) WHERE errors_removed_at IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX honeypot_attempts_at_idx")
    op.execute("REVOKE DELETE, UPDATE (at) ON honeypot_attempts FROM mo_service")
    op.execute("REVOKE DELETE ON import_errors FROM mo_service")
    op.execute("ALTER TABLE imports DROP COLUMN errors_removed_at")
