"""API keys that rotate: the secret before counts for a while. And a number, by which they are listed."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE api_keys
            ADD COLUMN previous_secret_hash bytea,
            ADD COLUMN previous_expires_at timestamptz,
            ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY,
            ADD CONSTRAINT api_keys_number_key UNIQUE (number),
            ADD CONSTRAINT api_keys_previous_check CHECK (
                (previous_secret_hash IS NULL) = (previous_expires_at IS NULL) AND length(previous_secret_hash) = 32
            )
    """)
    op.execute("GRANT UPDATE (secret_hash, previous_secret_hash, previous_expires_at) ON api_keys TO mo_service")
    op.execute("DROP TRIGGER api_keys_notify ON api_keys")
    op.execute("""
        CREATE TRIGGER api_keys_notify AFTER INSERT OR UPDATE OF secret_hash, scopes, expires_at, revoked_at ON api_keys
        FOR EACH ROW EXECUTE FUNCTION mo_notify_api_key()
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER api_keys_notify ON api_keys")
    op.execute("""
        CREATE TRIGGER api_keys_notify AFTER INSERT OR UPDATE OF scopes, expires_at, revoked_at ON api_keys
        FOR EACH ROW EXECUTE FUNCTION mo_notify_api_key()
    """)
    op.execute("REVOKE UPDATE (secret_hash) ON api_keys FROM mo_service")
    op.execute("ALTER TABLE api_keys DROP COLUMN previous_secret_hash, DROP COLUMN previous_expires_at, DROP COLUMN number")
