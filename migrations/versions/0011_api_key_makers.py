"""API keys store who created them; for those that exist, the audit log tells it."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN created_by text NOT NULL DEFAULT ''")
    op.execute("""
        UPDATE api_keys SET created_by = events.actor FROM events
        WHERE stream = 'changes' AND kind = 'api_key_created' AND subject = api_keys.id
    """)
    op.execute("CREATE INDEX api_keys_created_by_idx ON api_keys (created_by)")


def downgrade() -> None:
    op.execute("ALTER TABLE api_keys DROP COLUMN created_by")
