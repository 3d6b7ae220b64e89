"""The command line's `users`: who may log in."""

import getpass
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from mo_grpc.audit_log.rules import operator
from mo_grpc.auth.api_keys.rules import ApiKey
from mo_grpc.auth.users import store
from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.auth.users.administration import UserAdministration
from mo_grpc.auth.users.rules import NewUser, Role, User, normal_email
from mo_grpc.cli import terminal
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database, once
from mo_grpc.errors import InvalidFields

users = typer.Typer()


class RoleName(StrEnum):
    """The roles, as they are typed."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Whose account it is.")]
MustChange = Annotated[bool, typer.Option(help="Whether the first login has to choose another password.")]


@users.command("create")
def create_user(
    email: Email,
    role: Annotated[RoleName, typer.Option(help="What the person may do.")] = RoleName.VIEWER,
    superuser: Annotated[bool, typer.Option("--superuser", help="The same as `--role administrator`.")] = False,
    first_name: Annotated[str, typer.Option(help="The first name.")] = "",
    last_name: Annotated[str, typer.Option(help="The last name.")] = "",
    staff: Annotated[bool, typer.Option(help="Whether the person may use the web admin.")] = True,
    must_change: MustChange = False,
) -> None:
    """Create an account. The password is asked for, or read as one line of standard input."""
    settings = terminal.settings()
    normal = normal_email(email)
    if not normal:
        raise typer.BadParameter("is no e-mail", param_hint="EMAIL")
    if max(len(first_name), len(last_name)) > 100:
        raise typer.BadParameter("a name has at most 100 characters")
    password = _password()

    async def work(database: Database) -> User | None:
        hashed = await _hash(settings, database, password, normal)
        given = Role.ADMINISTRATOR if superuser else Role[role.name]
        command = NewUser(normal, first_name, last_name, given, staff, hashed, must_change)
        return await _administration(settings, database).create(command)

    if once(settings, work) is None:
        _fail(f"There is an account {normal} already.")
    print(f"Created {normal}.")


@users.command("list")
def list_users() -> None:
    """List the accounts, without their secrets."""
    table = Table("e-mail", "name", "role", "staff", "one-time codes", "must change", "locked", "last login")
    for user in once(terminal.settings(), lambda database: database.read(store.list_users)):
        times = [f"{time:%Y-%m-%d %H:%M:%S}" if time else "" for time in (user.locked_at, user.last_login_at)]
        flags = ["yes" if flag else "" for flag in (user.staff, user.otp_enabled_at, user.must_change_password)]
        name = f"{user.first_name} {user.last_name}".strip()
        table.add_row(user.email, name, Role(user.role).name.lower(), *flags, *times)
    terminal.console().print(table, markup=False)


@users.command("lock")
def lock_user(
    email: Email,
    revoke_keys: Annotated[bool, typer.Option("--revoke-keys", help="Revoke the API keys that the account made, too.")] = False,
) -> None:
    """Lock an account: no login, and every server refuses its tokens within a second; shows the API keys that it made."""
    keys: list[ApiKey] = []

    async def lock(by: UserAdministration, user: User) -> None:
        keys.extend(await by.lock(user, revoke_keys=revoke_keys))

    user = _with_user(email, lock)
    print(f"Locked {user.email}.")
    if keys and revoke_keys:
        print("Revoked the API keys that the account made:")
    elif keys:
        print("These API keys, which the account made, still count; with --revoke-keys, the same command revokes them:")
    for key in keys:
        print(f"  {key.id}  {key.name}")


@users.command("unlock")
def unlock_user(email: Email) -> None:
    """Unlock an account, and forget its failed logins."""
    user = _with_user(email, lambda by, user: by.unlock(user))
    print(f"Unlocked {user.email}.")


@users.command("set-role")
def set_role(email: Email, role: Annotated[RoleName, typer.Argument(metavar="ROLE", help="The new role.")]) -> None:
    """Give an account another role: viewer, operator or administrator; it holds everywhere within a second."""
    user = _with_user(email, lambda by, user: by.set_role(user, Role[role.name]))
    print(f"{user.email} is {role.value} now.")


@users.command("set-password")
def set_password(email: Email, must_change: MustChange = False) -> None:
    """Set a password, asked for or read as one line of standard input; all sessions of the account end."""
    settings = terminal.settings()
    password = _password()

    async def work(database: Database) -> None:
        user = await _find(database, email)
        hashed = await _hash(settings, database, password, user.email)
        await _administration(settings, database).set_password(user, hashed, must_change=must_change)

    once(settings, work)
    print(f"The password of {normal_email(email)} is set.")


@users.command("disable-otp")
def disable_otp(email: Email) -> None:
    """Turn one-time codes off for somebody who has lost both the app and the recovery codes."""
    user = _with_user(email, lambda by, user: by.disable_otp(user))
    print(f"One-time codes are off for {user.email}.")


def _with_user(email: str, change: Callable[[UserAdministration, User], Awaitable[None]]) -> User:
    settings = terminal.settings()

    async def work(database: Database) -> User:
        user = await _find(database, email)
        await change(_administration(settings, database), user)
        return user

    return once(settings, work)


def _administration(settings: Settings, database: Database) -> UserAdministration:
    return UserAdministration(database, Vault(settings), operator())


async def _find(database: Database, email: str) -> User:
    user = await database.read(lambda connection: store.find_user(connection, normal_email(email)))
    return user or _fail(f"There is no account {email}.")


async def _hash(settings: Settings, database: Database, password: str, email: str) -> str:
    try:
        return await Accounts(settings, database, Vault(settings)).hash(password, email)
    except InvalidFields as error:
        return _fail(error.message.replace("new_password:", "The password"))


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        _fail("The two are not the same.")
    return password


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(1)
