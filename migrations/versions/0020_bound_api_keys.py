"""API keys may be bound to customers."""

from alembic import op

revision = "0020"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Only new keys are bound: the trigger that notifies servers of a new key suffices, and nobody may update these columns.
    op.execute("""
        ALTER TABLE api_keys
            ADD COLUMN customer_external_ids text[] NOT NULL DEFAULT '{}',
            ADD COLUMN customer_external_id_prefix text NOT NULL DEFAULT '',
            ADD CONSTRAINT api_keys_customer_external_ids_check CHECK (cardinality(customer_external_ids) <= 100),
            ADD CONSTRAINT api_keys_customer_external_id_prefix_check CHECK (
                customer_external_id_prefix = '' OR
                customer_external_id_prefix ~ '^[A-Za-z0-9][A-Za-z0-9._~-]*$' AND length(customer_external_id_prefix) <= 60
            )
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE api_keys DROP COLUMN customer_external_ids, DROP COLUMN customer_external_id_prefix")
