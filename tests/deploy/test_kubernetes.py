"""The files for Kubernetes, as `kubectl kustomize` renders them; `make lint` compares them with Kubernetes's schema."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from pydantic import SecretStr

from mo_grpc.config import Settings
from mo_grpc.edge.configuration import render
from mo_grpc.edge.process import envoy_path
from mo_grpc.telemetry.folder import AUDIT
from tests.repository import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml"))
PORTS = {"mo_grpc_port": "grpc", "mo_web_port": "http", "mo_http_port": "http", "mo_metrics_port": "metrics"}

Object = dict[str, Any]


@cache
def rendered(overlay: str) -> list[Object]:
    command = [str(ROOT / ".venv" / "bin" / "kubectl"), "kustomize", str(FOLDER / "overlays" / overlay)]
    done = subprocess.run(command, check=True, capture_output=True)
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [each for each in rendered(overlay) if each["kind"] in kinds]


def pods(overlay: str) -> dict[str, Object]:
    """The pods' specifications, by name, each with its labels."""
    return {each["metadata"]["name"]: each["spec"]["template"] for each in of_kind(overlay, "Deployment", "Job")}


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def settings(overlay: str) -> dict[str, str]:
    [found] = of_kind(overlay, "ConfigMap")
    return dict(found["data"])


def read(values: dict[str, str]) -> Settings:
    return Settings.model_validate({name.lower(): value for name, value in values.items()})


def selects(selector: Object, pod: Object) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_may_more_than_it_needs(overlay: str) -> None:
    for name, pod in pods(overlay).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_serves_is_probed_spread_and_not_stopped_all_at_once(overlay: str) -> None:
    budgets = [each["spec"]["selector"]["matchLabels"] for each in of_kind(overlay, "PodDisruptionBudget")]
    for each in of_kind(overlay, "Deployment"):
        name, pod = each["metadata"]["name"], each["spec"]["template"]
        for container in pod["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
        assert len(pod["spec"]["topologySpreadConstraints"]) == 2
        for spread in pod["spec"]["topologySpreadConstraints"]:
            assert selects(spread["labelSelector"]["matchLabels"], pod)
        if name != f"mo-{AUDIT}":  # there is only one
            assert any(selects(budget, pod) for budget in budgets), name
            assert each["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    [grpc] = pods(overlay)["mo-grpc"]["spec"]["containers"]
    probes = ("startup", "liveness", "readiness")
    assert [grpc[f"{probe}Probe"]["grpc"] for probe in probes] == [{"port": 50051, "service": probe} for probe in probes]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_to_drain(overlay: str) -> None:
    drain = read(settings(overlay)).longest_drain
    for name in ("mo-grpc", "mo-web", "mo-edge"):
        assert pods(overlay)[name]["spec"]["terminationGracePeriodSeconds"] > drain


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_exist_and_their_ports_are_those_of_the_pods(overlay: str) -> None:
    values = settings(overlay)
    assert {name.lower() for name in values} <= Settings.model_fields.keys()
    found = read(values)
    named = {port["containerPort"] for pod in pods(overlay).values() for c in containers(pod) for port in c.get("ports", ())}
    assert named == {getattr(found, name) for name in PORTS} | {found.mo_edge_metrics_port}
    services = {each["metadata"]["name"] for each in of_kind(overlay, "Service")}
    assert {*found.mo_edge_upstream_host, found.mo_edge_web_host} <= services
    for pod in pods(overlay).values():
        for container in containers(pod):
            [source] = container.get("envFrom", [None])
            assert container["name"] == "envoy" or source == {"configMapRef": {"name": source["configMapRef"]["name"]}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_policy_and_budget_has_pods(overlay: str) -> None:
    all_pods = list(pods(overlay).values())
    for each in of_kind(overlay, "Service", "NetworkPolicy", "PodDisruptionBudget"):
        spec = each["spec"]
        selector = spec.get("selector") or spec.get("podSelector", {})
        chosen = [pod for pod in all_pods if selects(selector.get("matchLabels", selector), pod)]
        assert chosen, each["metadata"]["name"]
        for port in spec.get("ports", ()):
            names = {p["name"] for pod in chosen for c in containers(pod) for p in c.get("ports", ())}
            assert port["targetPort"] in names
    policies = [each["spec"] for each in of_kind(overlay, "NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies, "nothing is allowed but what is said"
    for name, pod in pods(overlay).items():
        own = [policy for policy in policies if policy["podSelector"].get("matchLabels")]
        assert any(selects(policy["podSelector"]["matchLabels"], pod) for policy in own), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_the_files_and_only_the_migration_has_the_owners(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    secret = {name for name, field in Settings.model_fields.items() if field.annotation in (SecretStr, SecretStr | None)}
    assert not secret & {name.lower() for name in settings(overlay)}
    for name, pod in pods(overlay).items():
        mounted = {volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume}
        assert mounted <= ({"mo-grpc-owner"} if name == "mo-migrate" else {"mo-grpc"}), name


def test_production_has_metrics_and_a_budget_for_the_autoscaler() -> None:
    [scaler] = of_kind("production", "HorizontalPodAutoscaler")
    assert {"mo_calls_in_flight"} == {m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"] if m["type"] == "Pods"}
    assert len(of_kind("production", "ServiceMonitor")) == 2
    labels = [each["metadata"]["labels"]["app.kubernetes.io/name"] for each in of_kind("production", "Service")]
    chosen: set[str] = set()
    for monitor in of_kind("production", "ServiceMonitor"):
        selector = monitor["spec"]["selector"]
        for expression in selector.get("matchExpressions", ()):
            chosen |= set(expression["values"])
        chosen |= {selector["matchLabels"]["app.kubernetes.io/name"]} if "matchLabels" in selector else set()
    assert chosen <= set(labels)
    assert {"mo-grpc", "mo-web", "mo-edge-metrics", "mo-audit"} <= chosen


def test_envoy_takes_the_configuration_that_its_pod_renders(tmp_path: Path) -> None:
    values = {name: value for name, value in dotenv_values(FOLDER / "base" / "settings.env").items() if value}
    path = tmp_path / "envoy.yaml"
    path.write_text(render(read(values)))
    command = [envoy_path(), "--mode", "validate", "--config-path", str(path), "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
