"""The edge's configuration: Envoy's, made of the templates in `envoy/` and the settings."""

import base64
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from mo_grpc.config import Settings
from mo_grpc.edge.http_errors import EDGE_ERRORS
from mo_grpc.edge.routes import body_members, by_verb, rest_paths
from mo_grpc.package_data import data_path
from mo_grpc.process.sockets import web_socket, worker_sockets

TEMPLATES = data_path("envoy")
DESCRIPTOR_SET = data_path("generated/descriptor.binpb")

# What a browser may send beside the API key.
CORS_HEADERS = (
    "authorization",
    "content-type",
    "grpc-timeout",
    "idempotency-key",
    "if-match",
    "last-event-id",
    "x-authorization",
    "x-grpc-web",
    "x-server-timing",
    "x-user-agent",
)

# What an answer says to browsers unless it says so itself: an API answer is no page, and belongs in no frame and no cache.
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}

MOST_ADDRESSES = 10_000
"""How many addresses the rate limit remembers; about half a KB each."""


class EdgeError(Exception):
    """The edge cannot start; the message says what to do."""


def render(settings: Settings, secrets: Path | None = None, admin_socket: Path | None = None) -> str:
    """Write Envoy's configuration as YAML.

    Without the two paths it is complete in itself: an Envoy elsewhere needs no other file, except its certificate.

    Args:
        settings: the settings.
        secrets: the folder in which Envoy finds what `render_secrets` writes, so that it can follow a change of certificates.
        admin_socket: where Envoy's admin interface listens, unless the settings give it a port.

    Raises:
        EdgeError: the settings do not fit together, or something is missing.
    """
    try:
        descriptor = DESCRIPTOR_SET.read_bytes()
    except FileNotFoundError:
        raise EdgeError(f"{DESCRIPTOR_SET} is missing: run `make generate`.") from None
    _check(settings, admin_socket)
    files = FileDescriptorSet.FromString(descriptor)
    paths = rest_paths(files)
    upstreams = settings.mo_edge_upstream_host
    collector = urlsplit(settings.mo_traces_endpoint) if settings.mo_traces_endpoint else None
    hsts = {"strict-transport-security": f"max-age={settings.mo_hsts_seconds}"}
    return _template("envoy.yaml.j2").render(
        listen_host=_listen_address(settings.mo_http_host),
        listen_port=settings.mo_http_port,
        admin_port=settings.mo_edge_admin_port,
        admin_socket=admin_socket and str(admin_socket),
        metrics_host=_listen_address(settings.mo_metrics_host),
        metrics_port=settings.edge_metrics_port,
        **_certificates(settings),
        tls=settings.tls,
        secrets=secrets and str(secrets),
        client_required=settings.mo_tls_client_required,
        redirect_port=settings.mo_http_redirect_port,
        security_headers=SECURITY_HEADERS | (hsts if settings.tls and settings.mo_hsts_seconds else {}),
        trusted_proxies=settings.mo_trusted_proxies,
        rate_limit=settings.mo_rate_limit_per_address,
        # Envoy wants at least one; nobody calls from this.
        rate_limit_exempt=[ipaddress.ip_network(n) for n in settings.mo_rate_limit_exempt or ("255.255.255.255/32",)],
        most_addresses=MOST_ADDRESSES,
        max_connections=settings.mo_max_connections,
        memory_bytes=settings.mo_edge_memory_mb * 1024 * 1024,
        access_log=settings.mo_access_log,
        traces=collector,
        traces_cluster_type="STATIC" if collector and _is_ip(collector.hostname or "") else "STRICT_DNS",
        traces_percent=settings.mo_traces_sample_ratio * 100,
        # Of an Envoy elsewhere, it is not known; this is where Debian has them.
        authorities=ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt",
        json_logs=settings.mo_log_format == "json",
        # On the same machine, each worker at its private socket; elsewhere, whoever answers at the shared port.
        pipes=[] if upstreams else [str(path) for path in worker_sockets(settings)],
        upstreams=upstreams,
        upstream_port=settings.mo_grpc_port,
        web_paths=["/openapi.json", "/swagger/", "/redoc/", settings.admin_url],
        # A Django admin's headers are its own, and its files are not below its pages.
        trap_paths=[settings.admin_honeypot_url, "/static/admin/"],
        long_web_paths=f"{re.escape(settings.admin_url)}(imports|events:stream|.*\\.csv)",
        web_pipe=None if settings.mo_edge_web_host else str(web_socket(settings)),
        web_host=settings.mo_edge_web_host,
        web_port=settings.mo_web_port,
        web_cluster_type="STRICT_DNS" if settings.mo_edge_web_host and not _is_ip(settings.mo_edge_web_host) else "STATIC",
        cluster_type="STATIC" if all(map(_is_ip, upstreams)) else "STRICT_DNS",
        grpc_health=settings.mo_health,
        max_request_bytes=settings.mo_max_request_bytes,
        cors_origins=settings.cors_allowed_origins,
        cors_credentials=settings.cors_allow_credentials,
        api_key_header=settings.api_key_custom_header,
        cors_headers=(settings.api_key_custom_header, *CORS_HEADERS),
        descriptor=base64.b64encode(descriptor).decode(),
        services=_services(files),
        lua=_lua(files),
        rest_paths=paths,
        rest_by_verb=by_verb(paths),
        http_errors=EDGE_ERRORS,
    )


def render_secrets(paths: Mapping[str, Path]) -> dict[str, str]:
    """Write the files that `render` refers to, by name: where the certificates are, not what they are."""
    template = _template("secret.yaml.j2")
    values = {name: str(path) for name, path in paths.items()}
    return {f"envoy-{name}.yaml": template.render(values, name=name) for name in ("certificate", "client_ca") if name in paths}


def _check(settings: Settings, admin_socket: Path | None) -> None:
    if "*" in settings.cors_allowed_origins and settings.cors_allow_credentials:
        raise EdgeError("CORS_ALLOW_CREDENTIALS with the origin * would let every site act for its visitors.")
    if settings.tls != (settings.mo_tls_key is not None):
        raise EdgeError("MO_TLS_CERTIFICATE and MO_TLS_KEY belong together.")
    if settings.edge_metrics_port and settings.mo_edge_admin_port is None and admin_socket is None:
        raise EdgeError("MO_EDGE_METRICS_PORT needs MO_EDGE_ADMIN_PORT.")
    if not settings.tls and (settings.mo_tls_client_ca or settings.mo_http_redirect_port is not None):
        raise EdgeError("MO_TLS_CLIENT_CA and MO_HTTP_REDIRECT_PORT need MO_TLS_CERTIFICATE.")


def _certificates(settings: Settings) -> dict[str, str | None]:
    paths = {"certificate": settings.mo_tls_certificate, "key": settings.mo_tls_key, "client_ca": settings.mo_tls_client_ca}
    return {name: str(path.absolute()) if path else None for name, path in paths.items()}


def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - this is YAML; `tojson` quotes what comes from outside
    )
    return environment.get_template(name)


def _lua(files: FileDescriptorSet) -> dict[str, str]:
    """The scripts, by name; the one that looks at the members of bodies knows those that there are."""
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.glob("*.lua"))}
    tables = (
        f"[{json.dumps(key)}] = {{ {', '.join(f'{name} = true' for name in sorted(names))} }}"
        for key, names in body_members(files).items()
    )
    scripts["unknown_members"] = f"local MEMBERS = {{ {', '.join(tables)} }}\n{scripts['unknown_members']}"
    return scripts


def _services(files: FileDescriptorSet) -> list[str]:
    """Name our services, in the order of the descriptor set."""
    return [f"{file.package}.{s.name}" for file in files.file if file.package.startswith("mo.") for s in file.service]


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
