"""The gRPC server: every service, health and reflection, behind the interceptors; drained on SIGTERM."""

import asyncio
import gc
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import NamedTuple, cast

import grpc
import structlog
import uvloop
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from mo.auth.v1 import api_keys_pb2_grpc, otp_pb2_grpc, tokens_pb2_grpc
from mo.customers.v1 import customers_pb2_grpc
from mo.imports.v1 import imports_pb2_grpc
from mo.loans.v1 import loans_pb2_grpc
from mo.payments.v1 import payments_pb2_grpc
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.api_keys.servicer import ApiKeyServicer
from mo_grpc.auth.api_keys.store import clean_calls
from mo_grpc.auth.tokens.servicer import TokenServicer
from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.auth.users.servicer import OtpServicer
from mo_grpc.auth.users.sessions import clean_sessions
from mo_grpc.auth.users.store import clean_failures
from mo_grpc.config import Settings
from mo_grpc.customers.servicer import CustomerServicer
from mo_grpc.db.cleaning import CLEANED_AT_ONCE
from mo_grpc.db.engine import Database, affordable_pool_size, database_url
from mo_grpc.idempotency.store import clean_records
from mo_grpc.imports.orphans import remove_for_ever
from mo_grpc.imports.servicer import ImportServicer
from mo_grpc.loans.servicer import LoanServicer
from mo_grpc.payments.servicer import PaymentServicer
from mo_grpc.process.places import READY, REPLACE, WorkersError, claim, endpoint, tell
from mo_grpc.process.tasks import Tasks, outlast
from mo_grpc.server.health import NOT_SERVING, SERVING, HealthServicer
from mo_grpc.server.interceptors.authentication import AuthenticationInterceptor
from mo_grpc.server.interceptors.draining import DrainInterceptor
from mo_grpc.server.interceptors.errors import ErrorInterceptor
from mo_grpc.server.interceptors.streams import StreamInterceptor
from mo_grpc.server.interceptors.validation import ValidationInterceptor
from mo_grpc.server.parts import Parts, running

log = structlog.get_logger()

SERVICES = (
    "mo.customers.v1.CustomerService",
    "mo.loans.v1.LoanService",
    "mo.payments.v1.PaymentService",
    "mo.imports.v1.ImportService",
    "mo.auth.v1.ApiKeyService",
    "mo.auth.v1.TokenService",
    "mo.auth.v1.OtpService",
)
_REFLECTION = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""gRPC's own default; said on purpose, because pages are bounded by it (see `payments.store.MAX_LISTED_DETAILS`)."""

PING_TOLERANCE = 0.8
"""How much sooner than agreed a ping may come: clocks and networks are not exact."""

FIRST_CONTACT = 3.0
"""Seconds that a server waits for its database before it listens; whoever connected sooner would only be refused."""

CLEANING_INTERVAL = 600.0
"""Seconds between two looks for idempotency keys to forget, about."""


class Built(NamedTuple):
    """A server, and by what it ends well."""

    server: grpc.aio.Server
    health: HealthServicer
    calls: DrainInterceptor


def make_server(settings: Settings, database: Database, parts: Parts) -> Built:
    """Build the server, not yet started and without a port."""
    calls = DrainInterceptor()
    authentication = AuthenticationInterceptor(
        settings, parts.keys, parts.tokens, parts.limits, parts.refusals, parts.addresses
    )
    server = grpc.aio.server(
        interceptors=(
            ErrorInterceptor(),
            calls,
            authentication,
            StreamInterceptor(authentication.admit),
            ValidationInterceptor(),
        ),
        options=(
            # Workers and their successors share the port; the supervisor sees to it that nobody else does.
            ("grpc.so_reuseport", 1),
            # Past 1,000 calls that wait to be looked at, gRPC would drop some without a word; we tell them (`Overloaded`).
            ("grpc.server.max_pending_requests", 10_000),
            ("grpc.server.max_pending_requests_hard_limit", 20_000),
            # Long-lived clients connect anew now and then, and so find workers that are new or idle. There is no
            # `max_connection_age_grace_ms`: what runs on the old connection ends by itself, be it an upload of an hour.
            ("grpc.max_connection_age_ms", int(settings.mo_connection_age_seconds * 1000)),
            # A peer that is gone without a word.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # Clients may ping, too, without calls as well; gRPC sends those away that ping sooner than this three times.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", int(settings.mo_client_ping_seconds * 1000 * PING_TOLERANCE)),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Twice what the edge lets through; near its default of 8 KiB, gRPC refuses at random.
            ("grpc.max_metadata_size", 16 * 1024),
        ),
    )
    services = cast("grpc.aio.Server", _Services(server))
    customers_pb2_grpc.add_CustomerServiceServicer_to_server(CustomerServicer(database), services)
    loans_pb2_grpc.add_LoanServiceServicer_to_server(LoanServicer(database), services)
    payments_pb2_grpc.add_PaymentServiceServicer_to_server(PaymentServicer(database), services)
    imports = ImportServicer(database, parts.background, settings.mo_max_import_bytes)
    imports_pb2_grpc.add_ImportServiceServicer_to_server(imports, services)
    accounts = Accounts(settings, database, parts.vault)
    api_keys = ApiKeyServicer(database, parts.vault, parts.addresses)
    api_keys_pb2_grpc.add_ApiKeyServiceServicer_to_server(api_keys, services)
    tokens = TokenServicer(settings, database, parts.vault, parts.tokens, parts.addresses, accounts)
    tokens_pb2_grpc.add_TokenServiceServicer_to_server(tokens, services)
    otp_pb2_grpc.add_OtpServiceServicer_to_server(OtpServicer(accounts, parts.addresses), services)
    status = HealthServicer(SERVICES)
    if settings.mo_health:
        health_pb2_grpc.add_HealthServicer_to_server(status, services)
    if settings.mo_reflection:
        _add_reflection(services)
    return Built(server, status, calls)


class _Services:
    """Takes services as generic handlers only.

    For methods that are registered one by one, grpc.aio waits for the next call of each of them anew at every call, which costs
    more the more methods there are (docs/performance.md).
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Nothing: they are among the generic handlers, too."""


def _add_reflection(server: grpc.aio.Server) -> None:
    """Serve reflection as v1 and as v1alpha; the two differ in their names alone, and the library knows the older."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    v1_file = json_format.Parse(json_format.MessageToJson(alpha).replace("v1alpha", "v1"), FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1_file.SerializeToString())
    servicer = reflection.aio.ReflectionServicer((*SERVICES, health.SERVICE_NAME, *_REFLECTION))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    v1 = grpc.method_handlers_generic_handler(_REFLECTION[0], {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((v1,))


async def report_health(status: HealthServicer, parts: Parts, supervisor: int | None) -> None:
    """Say SERVING while programs and people can be told apart from strangers; the first time, tell the supervisor.

    NOT_SERVING while the database is out of reach, or either cannot be known for another reason: their calls are UNAVAILABLE.
    """
    told = False
    while True:
        current = parts.keys.is_current and parts.tokens.is_current
        status.report(SERVING if current else NOT_SERVING)
        if current and not told:
            told = tell(supervisor, READY) or True
        await asyncio.sleep(0.1)


async def clean_up(database: Database, retention: timedelta) -> None:
    """Forget idempotency keys that are older than `retention`, and failed logins and sessions that ended a day ago."""
    day = timedelta(days=1)
    cleaners = ((clean_records, retention), (clean_failures, day), (clean_sessions, day), (clean_calls, timedelta(days=90)))
    while True:
        # At a moment of its own for each worker.
        await asyncio.sleep(random.uniform(0.5, 1.5) * CLEANING_INTERVAL)  # noqa: S311 - not a secret
        for clean, age in cleaners:
            await outlast("cleaning up", partial(_clean, database, partial(clean, age=age)))


async def _clean(database: Database, clean: Callable[[AsyncConnection], Awaitable[int]]) -> None:
    while await database.write(clean) == CLEANED_AT_ONCE:
        pass


async def first_contact(parts: Parts) -> None:
    """Wait until callers can be told apart from strangers, or until it has taken too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_CONTACT):
            while not (parts.keys.is_current and parts.tokens.is_current):  # noqa: ASYNC110 - both change with the time, too
                await asyncio.sleep(0.01)


def _listen(server: grpc.aio.Server, settings: Settings, place: int) -> None:
    """Take the port for direct clients and the private socket for Envoy.

    Raises:
        WorkersError: one of them cannot be used.
    """
    private = endpoint(settings, place)
    claim(settings, private)
    addresses = {
        f"Port {settings.mo_grpc_port} of {settings.mo_grpc_host}": settings.grpc_address,
        f"The socket {private}": f"unix:{private}",
    }
    for name, address in addresses.items():
        try:
            server.add_insecure_port(address)
        except RuntimeError:
            raise WorkersError(f"{name} cannot be used.") from None


async def serve_async(settings: Settings, place: int, supervisor: int | None) -> bool:
    """Serve until the supervisor says so (SIGHUP); then say NOT_SERVING, finish the running calls, and close the database.

    SIGTERM and SIGINT ask the supervisor for a successor first; without one, they end the server as well.
    A task behind the calls that fails ends it, too; then the answer is False.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def give_way() -> None:
        if not tell(supervisor, REPLACE):
            stop.set()

    loop.add_signal_handler(signal.SIGHUP, stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, give_way)
    url = database_url(settings)
    database = Database(url, await affordable_pool_size(url, settings))
    tasks = Tasks(on_failure=stop.set)
    async with running(settings, database, tasks) as parts:
        built = make_server(settings, database, parts)
        await first_contact(parts)
        _listen(built.server, settings, place)
        await built.server.start()
        retention = timedelta(hours=settings.mo_idempotency_retention_hours)
        jobs = {
            "health": report_health(built.health, parts, supervisor),
            "cleaning up": clean_up(database, retention),
            "imports": parts.background.follow(),
            "uploads without an import": remove_for_ever(database, parts.background.runner.objects),
        }
        for name, job in jobs.items():
            tasks.start(name, job)
        log.info("serving", address=settings.grpc_address, worker=place)
        await stop.wait()
        log.info("draining", grace_seconds=settings.mo_shutdown_grace_seconds, worker=place)
        await tasks.stop(*jobs)
        await drain(built, settings.mo_shutdown_grace_seconds)
    await database.close()
    log.info("stopped", worker=place)
    return not tasks.failed


async def drain(built: Built, grace: float) -> None:
    """Take no new calls, and wait for those that run, for `grace` seconds at most; none is ended without a word."""
    await built.health.end()
    built.calls.end_streams()
    await built.calls.settle()
    stopping = asyncio.create_task(built.server.stop(grace + 2))
    await asyncio.sleep(0)
    built.calls.go_on()
    _, left = await asyncio.wait({stopping}, timeout=grace)
    if left:
        built.calls.end_calls()
        built.calls.end_streams()
        await stopping


def serve(settings: Settings, place: int, supervisor: int | None) -> None:
    """Serve in this process, on uvloop, at one of the places; `supervisor` is the pipe to whoever watches over it.

    The exit status is 70 (EX_SOFTWARE) when a task behind the calls failed.
    """
    # The garbage collector stops all calls while it looks at every object there is. What has been imported stays, so it need
    # not be looked at, and the calls' own objects go by their reference counts: p99 was 60 ms before, and is 20 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    if not uvloop.run(serve_async(settings, place, supervisor)):
        sys.exit(os.EX_SOFTWARE)
