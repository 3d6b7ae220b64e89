"""The journal: what happened to each customer, and the order of all that happened."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATEMENTS = [
    # No foreign keys: each would cost a payment as much as its event. The service's role deletes no customer, loan or payment,
    # and `mo-grpc audit` compares them with their events.
    """
    CREATE TABLE journal_events (
        customer_id bigint NOT NULL,
        number bigint NOT NULL,
        xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
        kind smallint NOT NULL,
        recorded_at timestamptz NOT NULL,
        actor text NOT NULL,
        request_id text NOT NULL,
        backfilled boolean NOT NULL,
        payment_id bigint,
        amount numeric(20, 2),
        score_before numeric(12, 2),
        score_after numeric(12, 2) NOT NULL,
        debt_before numeric(20, 2),
        debt_after numeric(20, 2) NOT NULL,
        loan_ids bigint[] NOT NULL,
        loan_statuses_before smallint[] NOT NULL,
        loan_statuses_after smallint[] NOT NULL,
        outstandings_before numeric[] NOT NULL,
        outstandings_after numeric[] NOT NULL,
        status_before smallint,
        status_after smallint,
        preapproved_at timestamptz,
        version bigint,
        hash bytea NOT NULL,
        CONSTRAINT journal_events_pkey PRIMARY KEY (customer_id, number),
        CONSTRAINT journal_events_number_check CHECK (number > 0),
        CONSTRAINT journal_events_kind_check CHECK (kind BETWEEN 1 AND 9),
        CONSTRAINT journal_events_hash_check CHECK (length(hash) = 32)
    )
    """,
    # `xid` is the transaction that wrote an event; by it, the sequencer knows which events have become visible.
    "CREATE INDEX journal_events_xid_idx ON journal_events (xid)",
    "CREATE INDEX journal_events_payment_id_idx ON journal_events (payment_id) WHERE payment_id IS NOT NULL",
    "CREATE INDEX journal_events_recorded_at_idx ON journal_events USING brin (recorded_at) WITH (autosummarize = on)",
    # What a statement writes; a type of its own, so that a new column of the table does not break servers of the old version.
    """
    CREATE TYPE new_journal_event AS (
        customer_id bigint,
        number bigint,
        kind smallint,
        recorded_at timestamptz,
        actor text,
        request_id text,
        payment_id bigint,
        amount numeric,
        score_before numeric,
        score_after numeric,
        debt_before numeric,
        debt_after numeric,
        loan_ids bigint[],
        loan_statuses_before smallint[],
        loan_statuses_after smallint[],
        outstandings_before numeric[],
        outstandings_after numeric[],
        status_before smallint,
        status_after smallint,
        preapproved_at timestamptz,
        version bigint,
        hash text
    )
    """,
    """
    CREATE TABLE journal_positions (
        position bigint NOT NULL CONSTRAINT journal_positions_pkey PRIMARY KEY,
        customer_id bigint NOT NULL,
        number bigint NOT NULL,
        kind smallint NOT NULL
    )
    """,
    """
    CREATE UNIQUE INDEX journal_positions_customer_id_number_key
    ON journal_positions (customer_id, number) INCLUDE (position)
    """,
    # Most events are payments (kind 7); the others are found without reading these.
    "CREATE INDEX journal_positions_kind_idx ON journal_positions (kind, position) WHERE kind <> 7",
    # One row: the last position, and which transactions the sequencer has seen.
    """
    CREATE TABLE journal_head (
        singleton boolean NOT NULL DEFAULT true CONSTRAINT journal_head_pkey PRIMARY KEY,
        position bigint NOT NULL,
        snapshot text NOT NULL,
        CONSTRAINT journal_head_singleton_check CHECK (singleton)
    )
    """,
    "INSERT INTO journal_head (position, snapshot) VALUES (0, '1:1:')",
    "GRANT SELECT, INSERT ON journal_events, journal_positions TO mo_service",
    "GRANT SELECT, UPDATE (position, snapshot) ON journal_head TO mo_service",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE journal_head, journal_positions, journal_events")
    op.execute("DROP TYPE new_journal_event")
