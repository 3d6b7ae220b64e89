"""The answers to idempotency keys."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE idempotency_records (
            owner text COLLATE "C" NOT NULL,
            key text COLLATE "C" NOT NULL,
            request_hash bytea NOT NULL,
            refused boolean NOT NULL,
            answer bytea NOT NULL,
            created_at timestamptz NOT NULL,
            CONSTRAINT idempotency_records_pkey PRIMARY KEY (owner, key),
            CONSTRAINT idempotency_records_key_check CHECK (length(key) BETWEEN 1 AND 255),
            CONSTRAINT idempotency_records_request_hash_check CHECK (length(request_hash) = 32)
        )
    """)
    op.execute("CREATE INDEX idempotency_records_created_at_idx ON idempotency_records (created_at)")
    # To lock rows before it deletes them, the service needs the right to update a column.
    op.execute("GRANT SELECT, INSERT, DELETE, UPDATE (created_at) ON idempotency_records TO mo_service")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_records")
