"""An index for the web admin's list of INACTIVE customers."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX customers_inactive_idx ON customers (id) WHERE status = 2")


def downgrade() -> None:
    op.execute("DROP INDEX customers_inactive_idx")
