"""The schema's migrations, by Alembic."""

from alembic import command
from alembic.config import Config
from sqlalchemy import URL

from mo_grpc.config import ROOT


def alembic_config(url: URL) -> Config:
    """Alembic's configuration for one database; there is no `alembic.ini`."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def upgrade(url: URL, revision: str = "head") -> None:
    """Bring the schema to `revision`; safe to run again, and by several at once."""
    command.upgrade(alembic_config(url), revision)


def downgrade(url: URL, revision: str = "base") -> None:
    """Take the schema back to `revision`, data included."""
    command.downgrade(alembic_config(url), revision)
