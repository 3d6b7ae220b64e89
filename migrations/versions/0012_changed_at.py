"""Servers read what changed lately instead of all keys and users, and are notified of deletions, too."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KEY_COLUMNS = "secret_hash, scopes, expires_at, revoked_at, allowed_networks, calls_per_second, calls_per_day"

NOTIFY_API_KEY = """
    CREATE OR REPLACE FUNCTION mo_notify_api_key() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('mo_api_keys', ({changed}).id);
        RETURN NULL;
    END $$
"""

NOTIFY_PEOPLE = """
    CREATE OR REPLACE FUNCTION mo_notify_people() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('mo_people', TG_ARGV[0] || ' ' || (to_jsonb({changed}) ->> TG_ARGV[1]));
        RETURN NULL;
    END $$
"""

TRIGGERS = {
    "api_keys": f"""
        CREATE TRIGGER api_keys_notify AFTER INSERT {{delete}} OR UPDATE OF {KEY_COLUMNS} ON api_keys
        FOR EACH ROW EXECUTE FUNCTION mo_notify_api_key()
    """,
    "users": """
        CREATE TRIGGER users_notify AFTER INSERT {delete} OR UPDATE OF role, locked_at ON users
        FOR EACH ROW EXECUTE FUNCTION mo_notify_people('user', 'id')
    """,
}


def _notify(changed: str, delete: str) -> None:
    op.execute(NOTIFY_API_KEY.format(changed=changed))
    op.execute(NOTIFY_PEOPLE.format(changed=changed))
    for table, trigger in TRIGGERS.items():
        op.execute(f"DROP TRIGGER {table}_notify ON {table}")
        op.execute(trigger.format(delete=delete))


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN changed_at timestamptz NOT NULL DEFAULT clock_timestamp()")
    op.execute("CREATE INDEX api_keys_changed_at_idx ON api_keys (changed_at)")
    op.execute("CREATE INDEX users_updated_at_idx ON users (updated_at)")
    op.execute("""
        CREATE FUNCTION mo_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.changed_at := clock_timestamp();
            RETURN NEW;
        END $$
    """)
    op.execute(f"""
        CREATE TRIGGER api_keys_change BEFORE UPDATE OF {KEY_COLUMNS} ON api_keys
        FOR EACH ROW EXECUTE FUNCTION mo_note_change()
    """)
    _notify("coalesce(NEW, OLD)", "OR DELETE")


def downgrade() -> None:
    _notify("NEW", "")
    op.execute("DROP TRIGGER api_keys_change ON api_keys")
    op.execute("DROP FUNCTION mo_note_change")
    op.execute("DROP INDEX users_updated_at_idx")
    op.execute("ALTER TABLE api_keys DROP COLUMN changed_at")
