"""The service draws the ids of imports first, like those of customers, loans and payments."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT USAGE ON SEQUENCE imports_id_seq TO mo_service")


def downgrade() -> None:
    op.execute("REVOKE USAGE ON SEQUENCE imports_id_seq FROM mo_service")
