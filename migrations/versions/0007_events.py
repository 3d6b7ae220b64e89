"""The audit log of logins, changes and refusals: chains of sealed events."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE event_streams (
            name text COLLATE "C" NOT NULL CONSTRAINT event_streams_pkey PRIMARY KEY,
            last_number bigint NOT NULL,
            last_seal bytea NOT NULL,
            CONSTRAINT event_streams_last_number_check CHECK (last_number >= 0),
            CONSTRAINT event_streams_last_seal_check CHECK (length(last_seal) = 32)
        )
    """)
    op.execute("""
        INSERT INTO event_streams SELECT name, 0, decode(repeat('00', 32), 'hex')
        FROM unnest(ARRAY['changes', 'logins', 'refusals']) AS name
    """)
    op.execute("""
        CREATE TABLE events (
            stream text COLLATE "C" NOT NULL CONSTRAINT events_stream_fkey REFERENCES event_streams,
            number bigint NOT NULL,
            at timestamptz NOT NULL,
            kind text COLLATE "C" NOT NULL,
            actor text NOT NULL,
            subject text NOT NULL,
            address text COLLATE "C" NOT NULL,
            data jsonb NOT NULL,
            sealed_by text COLLATE "C" NOT NULL,
            seal bytea NOT NULL,
            CONSTRAINT events_pkey PRIMARY KEY (stream, number),
            CONSTRAINT events_number_check CHECK (number > 0),
            CONSTRAINT events_seal_check CHECK (length(seal) = 32)
        )
    """)
    op.execute("GRANT SELECT, INSERT ON events TO mo_service")
    op.execute("GRANT SELECT, UPDATE (last_number, last_seal) ON event_streams TO mo_service")


def downgrade() -> None:
    op.execute("DROP TABLE events")
    op.execute("DROP TABLE event_streams")
