"""The configuration with which a Prometheus on this host finds the metrics of a run, and the rules for them."""

from pathlib import Path

from mo_grpc.config import Settings
from mo_grpc.package_data import data_path
from mo_grpc.private_files import write_private

RULES = data_path("deploy/prometheus/rules.yml")


def prometheus_file(settings: Settings) -> Path:
    """Where the configuration is."""
    return settings.mo_data_dir / "prometheus.yml"


def write_scrape_configuration(settings: Settings) -> None:
    """Write it, for its owner alone, since it has the token."""
    token = settings.mo_metrics_token
    credentials = [f"    authorization: {{ credentials: {token.get_secret_value()!r} }}"] if token else []
    lines = [
        "# For a Prometheus on this host: prometheus --config.file=" + str(prometheus_file(settings)),
        "global: { scrape_interval: 5s, evaluation_interval: 5s }",
        f"rule_files: [{str(RULES)!r}]",
        "scrape_configs:",
        "  - job_name: mo-grpc",
        *credentials,
        f"    static_configs: [{{ targets: [{_target(settings, settings.metrics_port)}] }}]",
    ]
    if settings.edge_metrics_port:
        lines += [
            "  - job_name: mo-edge",
            "    metrics_path: /stats/prometheus",
            f"    static_configs: [{{ targets: [{_target(settings, settings.edge_metrics_port)}] }}]",
        ]
    write_private(prometheus_file(settings), "\n".join(lines) + "\n")


def _target(settings: Settings, port: int | None) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.mo_metrics_host, settings.mo_metrics_host)  # noqa: S104 - not bound to
    return repr(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
