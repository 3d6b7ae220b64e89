"""The command line's `keys`: who may call."""

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from mo_grpc.auth.api_keys.rules import (
    BUSINESS_SCOPES,
    MAX_CALLS,
    MAX_CUSTOMERS,
    MAX_NAME,
    MAX_NETWORKS,
    MAX_OVERLAP,
    OVERLAP,
    ApiKey,
    Credential,
    KeyLimits,
    NewApiKey,
    Rotation,
    parse_network,
)
from mo_grpc.formats import EXTERNAL_ID_RULE, is_external_id
from mo_grpc.rpc.access import BINDABLE, GRANTABLE
from mo_grpc.rpc.binding import BoundCustomers

if TYPE_CHECKING:
    from mo_grpc.auth.api_keys.administration import ApiKeyAdministration

# What a command needs of the database is imported when it runs, so that the help is there at once.
keys = typer.Typer()

T = TypeVar("T")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The id, as `keys list` shows it.")]
Networks = Annotated[
    list[str] | None, typer.Option(help="A network it may be used from, such as 192.0.2.0/24; may be repeated. Default: all.")
]
PerSecond = Annotated[int, typer.Option(min=0, max=MAX_CALLS, help="How many calls it may make a second; 0: any number.")]
PerDay = Annotated[int, typer.Option(min=0, max=MAX_CALLS, help="How many calls it may make a day (UTC); 0: any number.")]


def _administer(change: "Callable[[ApiKeyAdministration], Awaitable[T]]") -> T:
    from mo_grpc.audit_log.rules import operator
    from mo_grpc.auth.api_keys.administration import ApiKeyAdministration
    from mo_grpc.cli import terminal
    from mo_grpc.crypto import Vault
    from mo_grpc.db.engine import once

    settings = terminal.settings()
    return once(settings, lambda database: change(ApiKeyAdministration(database, Vault(settings), operator())))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, in words.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope it gets; may be repeated. Default: all business scopes.")
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(help="When it ends, in UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
    ] = None,
    network: Networks = None,
    per_second: PerSecond = 0,
    per_day: PerDay = 0,
    customer: Annotated[
        list[str] | None,
        typer.Option(help="Bind it to this customer, and to no others; may be repeated. Default: all customers."),
    ] = None,
    customer_prefix: Annotated[str, typer.Option(help="Bind it to the customers whose ids begin with this.")] = "",
) -> None:
    """Make an API key and print it, alone, on standard output. It is shown this once."""
    customers = _customers(customer or [], customer_prefix)
    allowed = BINDABLE if customers else GRANTABLE
    unknown = set(scope or ()) - allowed
    if unknown:
        which = "no scope of a key that is bound to customers" if customers else "no such scope"
        raise typer.BadParameter(f"{which}: {', '.join(sorted(unknown))}; there are {', '.join(sorted(allowed))}")
    if not 1 <= len(name) <= MAX_NAME:
        raise typer.BadParameter(f"a name has 1 to {MAX_NAME} characters")
    expires_at = expires.replace(tzinfo=UTC) if expires else None
    limits = _limits(network, per_second, per_day)
    scopes = allowed.intersection(scope or BUSINESS_SCOPES)
    command = NewApiKey(Credential.generate(), name, scopes, expires_at, limits, customers=customers)
    _administer(lambda administration: administration.create(command))
    print(command.credential)


@keys.command("list")
def list_keys() -> None:
    """List the API keys, without their secrets."""
    from rich.table import Table

    from mo_grpc.auth.api_keys import store
    from mo_grpc.cli import terminal
    from mo_grpc.db.engine import once

    table = Table("id", "name", "scopes", "created", "by", "expires", "revoked", "last used", "limits", "customers")
    for key in once(terminal.settings(), lambda database: database.read(store.list_api_keys)):
        times = (key.created_at, key.expires_at, key.revoked_at, key.last_used_at)
        created, *others = [f"{time:%Y-%m-%d %H:%M:%S}" if time else "" for time in times]
        customers = str(key.customers or "")
        table.add_row(key.id, key.name, " ".join(sorted(key.scopes)), created, key.created_by, *others, _shown(key), customers)
    terminal.console().print(table)


@keys.command("limit")
def limit_key(key_id: KeyId, network: Networks = None, per_second: PerSecond = 0, per_day: PerDay = 0) -> None:
    """Set from where and how often an API key may call, in place of its old limits; it holds everywhere within a second."""
    limits = _limits(network, per_second, per_day)
    if not _administer(lambda administration: administration.set_limits(key_id, limits)):
        _no_such_key(key_id)
    print(f"{key_id} has {'these limits' if any(limits) else 'no limits'} now.")


@keys.command("rotate")
def rotate_key(
    key_id: KeyId,
    overlap: Annotated[
        int, typer.Option(min=0, max=MAX_OVERLAP, help="For how many seconds the old key stays valid.")
    ] = OVERLAP,
) -> None:
    """Give an API key another secret and print the new key, this once; the old one stays valid for a day."""
    command = Rotation(Credential.generate()._replace(id=key_id), overlap)
    _administer(lambda administration: administration.rotate(command))
    print(command.credential)


@keys.command("revoke")
def revoke_key(key_id: KeyId) -> None:
    """Revoke an API key, for good; every server refuses it within a second."""
    if not _administer(lambda administration: administration.revoke(key_id)):
        _no_such_key(key_id)
    print(f"Revoked {key_id}.")


def _limits(networks: list[str] | None, per_second: int, per_day: int) -> KeyLimits:
    try:
        parsed = tuple(parse_network(network) for network in networks or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--network") from None
    if len(parsed) > MAX_NETWORKS:
        raise typer.BadParameter(f"a key has at most {MAX_NETWORKS} networks", param_hint="--network")
    return KeyLimits(parsed, per_second, per_day)


def _customers(external_ids: list[str], prefix: str) -> BoundCustomers | None:
    for hint, texts in {"--customer": external_ids, "--customer-prefix": [prefix] if prefix else []}.items():
        if wrong := [text for text in texts if not is_external_id(text)]:
            raise typer.BadParameter(f"'{wrong[0]}' {EXTERNAL_ID_RULE}", param_hint=hint)
    if len(external_ids) > MAX_CUSTOMERS:
        raise typer.BadParameter(f"a key names at most {MAX_CUSTOMERS} customers", param_hint="--customer")
    return BoundCustomers.of(external_ids, prefix)


def _shown(key: ApiKey) -> str:
    """The limits of a key, in words."""
    numbers = {"second": key.calls_per_second, "day": key.calls_per_day}
    rates = [f"{number:,} a {unit}" for unit, number in numbers.items() if number]
    return ", ".join([*rates, *map(str, key.allowed_networks)])


def _no_such_key(key_id: str) -> NoReturn:
    print(f"There is no API key {key_id}.", file=sys.stderr)
    raise typer.Exit(1)
