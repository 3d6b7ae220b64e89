"""The service's login, which is not the owner's and cannot become it."""

import psycopg
import structlog
from psycopg import sql
from sqlalchemy import URL

from mo_grpc.db.connections import connect_args
from mo_grpc.db.embedded import SERVICE_ROLE

log = structlog.get_logger()

Connection = psycopg.Connection[tuple[object, ...]]


def let_in(owner: URL, service: URL) -> None:
    """Let the service log in as its URL says, with that password, where it cannot yet; the schema is up to date.

    Where a database administrator manages the logins, the owner may not do this; then a warning says what is missing.
    """
    login, password = service.username, service.password
    if not login or not password or login == owner.username or _can_log_in(service):
        return
    name = sql.Identifier(login)
    try:
        with _connect(owner, None) as connection:
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [login]).fetchone()
            # A verifier instead of the password, because PostgreSQL logs the text of a failed statement.
            secret = connection.pgconn.encrypt_password(str(password).encode(), login.encode(), b"scram-sha-256")
            make = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            verb = sql.SQL("ALTER" if exists else "CREATE")
            connection.execute(make.format(verb, name, sql.Literal(secret.decode())))
            if login != SERVICE_ROLE:
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(SERVICE_ROLE), name))
    except psycopg.errors.InsufficientPrivilege as error:
        log.warning("the service cannot log in, and the owner may not change that", login=login, cause=str(error).strip())


def _can_log_in(service: URL) -> bool:
    try:
        _connect(service, SERVICE_ROLE).close()
    except psycopg.OperationalError:
        return False
    return True


def _connect(url: URL, role: str | None) -> Connection:
    # By SQLAlchemy's own function, so that URLs are read in the same way everywhere.
    _, parameters = url.get_dialect()().create_connect_args(url)
    return psycopg.connect(**{**parameters, **connect_args(role)})  # noqa: TID251 - of `db`
