"""Builds the gRPC server: every service, health and reflection, behind the interceptors."""

from typing import NamedTuple, cast

import grpc
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from mo.auth.v1 import api_keys_pb2_grpc, otp_pb2_grpc, tokens_pb2_grpc
from mo.customers.v1 import customers_pb2_grpc
from mo.imports.v1 import imports_pb2_grpc
from mo.journal.v1 import journal_pb2_grpc
from mo.loans.v1 import loans_pb2_grpc
from mo.payments.v1 import payments_pb2_grpc
from mo.statements.v1 import statements_pb2_grpc
from mo.webhooks.v1 import webhooks_pb2_grpc

from mo_grpc.auth.api_keys.servicer import ApiKeyServicer
from mo_grpc.auth.tokens.servicer import TokenServicer
from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.auth.users.servicer import OtpServicer
from mo_grpc.config import Settings
from mo_grpc.customers.servicer import CustomerServicer
from mo_grpc.db.engine import Database
from mo_grpc.imports.servicer import ImportServicer
from mo_grpc.journal.servicer import JournalServicer
from mo_grpc.loans.servicer import LoanServicer
from mo_grpc.payments.servicer import PaymentServicer
from mo_grpc.rpc.access import SERVICES
from mo_grpc.server.health import HealthServicer
from mo_grpc.server.interceptors.admission import Admission
from mo_grpc.server.interceptors.calls import CallInterceptor
from mo_grpc.server.interceptors.draining import RunningCalls
from mo_grpc.server.state import ServerState
from mo_grpc.statements.servicer import StatementServicer
from mo_grpc.webhooks.servicer import WebhookServicer

_REFLECTION = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""gRPC's own default; said on purpose, because pages are bounded by it (see `payments.store.MAX_LISTED_DETAILS`)."""

PING_TOLERANCE = 0.8
"""How much sooner than agreed a ping may come: clocks and networks are not exact."""


class Built(NamedTuple):
    """A server, and by what it ends well."""

    server: grpc.aio.Server
    health: HealthServicer
    calls: RunningCalls


def make_server(settings: Settings, database: Database, state: ServerState) -> Built:
    """Build the server, not yet started and without a port."""
    calls = RunningCalls()
    admission = Admission(settings, state.keys, state.tokens, state.limits, state.refusals, state.addresses)
    server = grpc.aio.server(
        interceptors=(CallInterceptor(admission, calls),),
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
    statements_pb2_grpc.add_StatementServiceServicer_to_server(StatementServicer(database), services)
    imports = ImportServicer(database, state.background, settings.mo_max_import_bytes)
    imports_pb2_grpc.add_ImportServiceServicer_to_server(imports, services)
    journal_pb2_grpc.add_JournalServiceServicer_to_server(JournalServicer(database, state.feed), services)
    webhooks = WebhookServicer(database, state.vault, state.addresses, state.sender)
    webhooks_pb2_grpc.add_WebhookServiceServicer_to_server(webhooks, services)
    accounts = Accounts(settings, database, state.vault)
    api_keys = ApiKeyServicer(database, state.vault, state.addresses)
    api_keys_pb2_grpc.add_ApiKeyServiceServicer_to_server(api_keys, services)
    tokens = TokenServicer(settings, database, state.vault, state.tokens, state.addresses, accounts)
    tokens_pb2_grpc.add_TokenServiceServicer_to_server(tokens, services)
    otp_pb2_grpc.add_OtpServiceServicer_to_server(OtpServicer(accounts, state.addresses), services)
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
