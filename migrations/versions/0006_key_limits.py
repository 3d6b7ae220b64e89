"""Limits of API keys: networks, calls per second and per day; and the counts of the calls of a day."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NOTIFY = """
    CREATE TRIGGER api_keys_notify AFTER INSERT OR UPDATE OF {columns} ON api_keys
    FOR EACH ROW EXECUTE FUNCTION mo_notify_api_key()
"""


def upgrade() -> None:
    op.execute("""
        ALTER TABLE api_keys
            ADD COLUMN allowed_networks cidr[] NOT NULL DEFAULT '{}',
            ADD COLUMN calls_per_second integer NOT NULL DEFAULT 0,
            ADD COLUMN calls_per_day integer NOT NULL DEFAULT 0,
            ADD CONSTRAINT api_keys_allowed_networks_check CHECK (cardinality(allowed_networks) <= 32),
            ADD CONSTRAINT api_keys_calls_per_second_check CHECK (calls_per_second >= 0),
            ADD CONSTRAINT api_keys_calls_per_day_check CHECK (calls_per_day >= 0)
    """)
    op.execute("GRANT UPDATE (allowed_networks, calls_per_second, calls_per_day) ON api_keys TO mo_service")
    op.execute("DROP TRIGGER api_keys_notify ON api_keys")
    columns = "secret_hash, scopes, expires_at, revoked_at, allowed_networks, calls_per_second, calls_per_day"
    op.execute(NOTIFY.format(columns=columns))
    op.execute("""
        CREATE TABLE api_key_calls (
            day date NOT NULL,
            key_id text COLLATE "C" NOT NULL CONSTRAINT api_key_calls_key_id_fkey REFERENCES api_keys,
            calls bigint NOT NULL,
            CONSTRAINT api_key_calls_pkey PRIMARY KEY (day, key_id),
            CONSTRAINT api_key_calls_calls_check CHECK (calls >= 0)
        )
    """)
    op.execute("GRANT SELECT, INSERT, DELETE, UPDATE (calls) ON api_key_calls TO mo_service")


def downgrade() -> None:
    op.execute("DROP TABLE api_key_calls")
    op.execute("DROP TRIGGER api_keys_notify ON api_keys")
    op.execute(NOTIFY.format(columns="secret_hash, scopes, expires_at, revoked_at"))
    op.execute("""
        ALTER TABLE api_keys DROP COLUMN allowed_networks, DROP COLUMN calls_per_second, DROP COLUMN calls_per_day
    """)
