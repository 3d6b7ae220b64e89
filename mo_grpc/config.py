"""Every setting of the service, read from the environment and `.env`; nothing else reads either.

`env.example` lists them all. Names without the `MO_` prefix are those of the Django service that this one replaces.
"""

import ipaddress
import os
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

if TYPE_CHECKING:
    from sqlalchemy import URL

# SQLAlchemy and psycopg are imported where there is a URL to read: what starts other processes does without them.
DRIVER = "postgresql+psycopg"


def _psycopg(secret: SecretStr) -> "URL":
    """Any `postgresql://` URL, served by psycopg 3; one with several hosts is read as libpq does (its manual, 32.1.1.3).

    Raises:
        ValueError: it is not one.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    scheme, separator, rest = secret.get_secret_value().partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError
    authority = rest.partition("/")[0].partition("?")[0]
    if "," not in authority.rpartition("@")[2]:
        try:
            return make_url(f"{DRIVER}://{rest}")
        except ArgumentError as error:
            raise ValueError from error
    try:
        query = {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{rest}").items()}
    except ProgrammingError as error:
        raise ValueError from error
    return URL.create(
        DRIVER,
        username=query.pop("user", None),
        password=query.pop("password", None),
        database=query.pop("dbname", None),
        query=query,
    )


def _split(value: object) -> object:
    """Accept `a, b` and `a b` as lists of strings."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _page_path(value: object) -> object:
    """Django's `admin/` and ours, `/admin/`, mean the same."""
    return f"/{value.strip('/')}/" if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
CommaSecrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
PagePath = Annotated[str, BeforeValidator(_page_path), Field(pattern=r"^/([A-Za-z0-9_~-]+/)+$")]
Days = Annotated[int, Field(ge=1, le=36_500)]
Port = Annotated[int, Field(ge=0, le=65535)]

METRICS_PORT = 9464
EDGE_METRICS_PORT = 9465


class Settings(BaseSettings):
    """The settings of one process. Empty values count as unset."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True, frozen=True
    )

    # A folder with a file for each setting that it gives, as Docker and Kubernetes mount secrets; the environment wins.
    mo_secrets_dir: Path | None = None

    # The folder of the embedded PostgreSQL, its sockets and the run's files.
    mo_data_dir: Path = Path(".mo")

    # Either one URL, or the DATABASE_* parts; neither means the embedded PostgreSQL.
    mo_database_url: SecretStr | None = None
    mo_migration_database_url: SecretStr | None = None
    database_host: str | None = None
    database_port: Port = 5432
    database_name: str = "mo"
    database_user: str = "mo"
    database_passwd: SecretStr | None = None
    # The login that owns the schema and migrates, if it is another.
    database_owner: str | None = None
    database_owner_passwd: SecretStr | None = None
    # Connections of a worker at most; fewer if PostgreSQL allows fewer.
    mo_database_pool_size: Annotated[int, Field(ge=2, le=1000)] = 10
    mo_idempotency_retention_hours: Annotated[int, Field(ge=1)] = 24
    # After how many days other things are deleted; history, the journal and the audit log never are.
    mo_upload_retention_days: Annotated[int, Field(ge=0)] = 90
    mo_import_error_retention_days: Days = 365
    mo_call_count_retention_days: Days = 90
    mo_webhook_retention_days: Days = 30
    mo_honeypot_retention_days: Days = 90

    mo_grpc_host: str = "127.0.0.1"
    mo_grpc_port: Port = 50051
    # Server processes; by default, as many as there are processor cores.
    mo_workers: Annotated[int, Field(ge=1, le=64)] = os.cpu_count() or 1
    # After about how long a client is asked to reconnect; random, so that not all do so at once. Running calls finish.
    mo_connection_age_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    # How often a client may send a keepalive ping (gRPC proposal A8).
    mo_client_ping_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    mo_http_host: str = "127.0.0.1"
    mo_http_port: Port = 8080

    # The hosts at which Envoy finds gRPC servers; by default this one.
    mo_edge_upstream_host: CommaList = ()
    mo_edge_admin_port: Port | None = None
    # The paths of the pages, which Envoy routes. The web server listens on a private socket, unless it has a host.
    admin_url: PagePath = "/grappelli/"
    admin_honeypot_url: PagePath = "/admin/"
    # How long a session of the web admin may be idle.
    mo_admin_idle_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    mo_web_host: str | None = None
    mo_web_port: Port = 8000
    mo_edge_web_host: str | None = None
    # With a certificate, the edge accepts only TLS; a port without TLS beside it only redirects there.
    mo_tls_certificate: Path | None = None
    mo_tls_key: Path | None = None
    mo_tls_client_ca: Path | None = None
    mo_tls_client_required: bool = True
    mo_http_redirect_port: Port | None = None
    mo_hsts_seconds: Annotated[int, Field(ge=0)] = 31_536_000
    # How many proxies are in front of the edge, each of which adds to X-Forwarded-For.
    mo_trusted_proxies: Annotated[int, Field(ge=0, le=10)] = 0
    # Calls per second; 0 means no limit.
    mo_rate_limit_per_address: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    # The addresses that the gRPC server trusts for a client's address, besides private sockets: an Envoy on another host.
    mo_trusted_edges: CommaList = ()
    mo_rate_limit_exempt: CommaList = ("127.0.0.0/8", "::1/128")
    mo_max_connections: Annotated[int, Field(ge=1)] = 10_000
    mo_edge_memory_mb: Annotated[int, Field(ge=64)] = 1024
    mo_edge_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    # A file, or `stdout`.
    mo_access_log: str | None = None
    mo_max_request_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    cors_allowed_origins: CommaList = ()
    cors_allow_credentials: bool = False

    api_key_custom_header: str = "x-api-key"
    # The key of `mo-grpc import`.
    mo_api_key: SecretStr | None = None
    # Encrypts signing keys and secrets of one-time codes in the database; by default, a file in the data folder is used.
    secret_key: SecretStr | None = Field(default=None, min_length=32)
    # Former values, with which data were encrypted and the audit log was sealed.
    secret_key_fallbacks: CommaSecrets = ()
    auth_jwt_behind_basic: bool = False
    token_expired_after_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    otp_token_expiration_time: Annotated[int, Field(ge=1, le=3600)] = 300
    mo_session_hours: Annotated[int, Field(ge=1, le=8760)] = 12
    mo_password_memory_kib: Annotated[int, Field(ge=1024, le=4 * 1024 * 1024)] = 65_536
    mo_password_passes: Annotated[int, Field(ge=1, le=100)] = 3

    mo_reflection: bool = True
    mo_health: bool = True

    # Files to import: in MO_DATA_DIR/objects, or in a bucket of S3.
    aws_storage_bucket_name: str | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_s3_region_name: str | None = None
    aws_s3_endpoint_url: str | None = None
    aws_s3_signature_version: Literal["s3v4", "s3"] = "s3v4"
    aws_s3_addressing_style: Literal["auto", "path", "virtual"] = "auto"
    # Other buckets that CreateImport may read.
    mo_s3_source_buckets: CommaList = ()
    mo_max_import_bytes: Annotated[int, Field(ge=1024)] = 5 * 1024**3
    # After how long without a sign of its worker an import is taken over.
    mo_import_lease_seconds: Annotated[float, Field(ge=1)] = 30.0
    # Whether webhooks may have http:// URLs and private addresses.
    mo_webhook_allow_private: bool = False
    use_celery: bool = False
    celery_broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379")

    mo_log_level: Literal["debug", "info", "warning", "error"] = "info"
    mo_log_format: Literal["json", "console"] = "json"
    # Which part of the calls that went well has a line in the log; by default, the first ten of each second.
    mo_log_calls_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    # After how long a call is slow; 0 means never.
    mo_slow_call_seconds: Annotated[float, Field(ge=0)] = 1.0
    # An OpenTelemetry collector that takes OTLP over gRPC; without one, nothing is traced.
    mo_traces_endpoint: str | None = None
    # The part of the calls that is traced.
    mo_traces_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    # Turns the metrics on, at the usual ports unless others are given, and has `up` write a scrape configuration.
    mo_telemetry: bool = False
    # Where Prometheus finds the metrics of all processes of this host; without a port, there are none.
    mo_metrics_host: str = "127.0.0.1"
    mo_metrics_port: Port | None = None
    mo_metrics_token: SecretStr | None = None
    # Without histograms there are far fewer series, and no percentiles of latencies.
    mo_metrics_histograms: bool = True
    # Where Prometheus finds Envoy's own metrics.
    mo_edge_metrics_port: Port | None = None
    # How long a server that is to end still takes calls, while it says already that it is not ready.
    mo_drain_delay_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    mo_shutdown_grace_seconds: Annotated[float, Field(ge=0)] = 20.0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read MO_SECRETS_DIR, if it is set, after what pydantic reads."""
        sources = (init_settings, env_settings, dotenv_settings)
        folder = os.environ.get("MO_SECRETS_DIR")  # noqa: TID251 - here it is read
        return (*sources, SecretsSettingsSource(settings_cls, folder)) if folder else sources

    @field_validator("mo_database_url", "mo_migration_database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse what is not a URL of PostgreSQL, without repeating it, because it may contain a password."""
        if value is None:
            return None
        try:
            _psycopg(value)
        except ValueError:
            raise ValueError("must be a postgresql:// URL") from None
        return value

    @field_validator("mo_traces_endpoint")
    @classmethod
    def _is_collector(cls, value: str | None) -> str | None:
        """Complete the URL with OTLP's port for gRPC; such a URL has no path."""
        if value is None:
            return None
        url = urlsplit(value)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        address = f"{url.scheme}://{host}"
        complete = f"{address}:{url.port or 4317}"
        if url.scheme not in ("http", "https") or not host or value.lower().rstrip("/") not in (address, complete):
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
        return complete

    @field_validator("api_key_custom_header")
    @classmethod
    def _as_metadata_key(cls, value: str) -> str:
        """Django's `HTTP_X_API_KEY`, HTTP's `X-API-KEY` and gRPC's `x-api-key` name the same header."""
        return value.lower().removeprefix("http_").replace("_", "-")

    @field_validator("mo_rate_limit_exempt", "mo_trusted_edges")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Parse networks; a single address is a network of one."""
        return tuple(str(ipaddress.ip_network(network)) for network in value)

    @model_validator(mode="after")
    def _paths_differ(self) -> Self:
        """The admin and the honeypot have paths of their own, which are not below each other or below another page."""
        taken = [self.admin_url, self.admin_honeypot_url, "/v1/", "/swagger/", "/redoc/", "/static/admin/", "/mo.", "/grpc."]
        for place, path in enumerate(taken[:2]):
            if any(path.startswith(other) or other.startswith(path) for other in taken[place + 1 :]):
                raise ValueError(f"ADMIN_URL and ADMIN_HONEYPOT_URL need paths of their own, and {path} is in use")
        return self

    @property
    def tls(self) -> bool:
        """Whether the edge speaks TLS."""
        return self.mo_tls_certificate is not None

    @property
    def longest_drain(self) -> float:
        """Seconds that a part may take to end at most."""
        return self.mo_drain_delay_seconds + self.mo_shutdown_grace_seconds

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics, if they are on."""
        return self.mo_metrics_port or (METRICS_PORT if self.mo_telemetry else None)

    @property
    def edge_metrics_port(self) -> int | None:
        """The port of Envoy's metrics, if they are on."""
        return self.mo_edge_metrics_port or (EDGE_METRICS_PORT if self.mo_telemetry else None)

    @property
    def token_header(self) -> str:
        """The header, or metadata, of users' credentials; another one where a proxy needs `authorization` for its own."""
        return "x-authorization" if self.auth_jwt_behind_basic else "authorization"

    @property
    def grpc_address(self) -> str:
        """Where the gRPC server listens."""
        host = f"[{self.mo_grpc_host}]" if ":" in self.mo_grpc_host else self.mo_grpc_host
        return f"{host}:{self.mo_grpc_port}"

    @cached_property
    def external_database_url(self) -> "URL | None":
        """The URL of an external PostgreSQL, or None for the embedded one."""
        if self.mo_database_url is not None:
            return _psycopg(self.mo_database_url)
        if self.database_host is None:
            return None
        from sqlalchemy import URL

        return URL.create(
            DRIVER,
            username=self.database_user,
            password=self.database_passwd.get_secret_value() if self.database_passwd else None,
            host=self.database_host,
            port=self.database_port,
            database=self.database_name,
        )

    @cached_property
    def external_migration_database_url(self) -> "URL | None":
        """The URL of the schema's owner: `MO_MIGRATION_DATABASE_URL`, or the service's with the owner's login, if any."""
        if self.mo_migration_database_url is not None:
            return _psycopg(self.mo_migration_database_url)
        url = self.external_database_url
        if url is None or self.database_owner is None:
            return url
        password = self.database_owner_passwd.get_secret_value() if self.database_owner_passwd else None
        return url.set(username=self.database_owner, password=password)


OWNERS_SECRETS = ("mo_migration_database_url", "database_owner_passwd")
"""Settings that a server process must not have."""


def forget_owner() -> None:
    """Let no process that is started from now on find the owner's secrets in its environment."""
    for name in [name for name in os.environ if name.lower() in OWNERS_SECRETS]:  # noqa: TID251 - here it is read
        del os.environ[name]  # noqa: TID251 - as above


def name_metrics_folder(folder: Path) -> None:
    """Tell prometheus_client, which knows no other way, where the processes of this host share their metrics."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # noqa: TID251 - as above


def unknown_names() -> dict[str, str]:
    """Names in the environment and `.env` that are not settings, each with the setting that may be meant, or "".

    These are all that begin with `MO_`, and others that are nearly a setting's name.
    """
    settings = [name.upper() for name in Settings.model_fields]
    values = dotenv_values(".env") | os.environ  # noqa: TID251 - as above
    given = {name.upper() for name, value in values.items() if value}
    found = {}
    for name in sorted(given.difference(settings)):
        ours = name.startswith("MO_")
        nearest = get_close_matches(name, settings, 1, 0.6 if ours else 0.85)
        if ours or nearest:
            found[name] = nearest[0] if nearest else ""
    return found
