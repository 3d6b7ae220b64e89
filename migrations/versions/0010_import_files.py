"""An import stores its file's name, and the layout of its lines."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE imports
            ADD COLUMN file_name text NOT NULL DEFAULT '',
            ADD COLUMN layout text,
            ADD CONSTRAINT imports_file_name_check CHECK (length(file_name) <= 255)
    """)
    # To find uploads that have no import.
    op.execute("CREATE INDEX imports_source_idx ON imports (source)")
    op.execute("GRANT UPDATE (layout) ON imports TO mo_service")


def downgrade() -> None:
    op.execute("DROP INDEX imports_source_idx")
    op.execute("ALTER TABLE imports DROP COLUMN file_name, DROP COLUMN layout")
