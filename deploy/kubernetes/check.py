"""Checks the files for Kubernetes: `python deploy/kubernetes/check.py`; with `--write`, writes the rules of its monitoring.

Each overlay is rendered by `kubectl kustomize`, and each object compared with Kubernetes's schema.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import yaml

FOLDER = Path(__file__).parent
RULES = FOLDER.parent / "prometheus" / "rules.yml"
OPERATOR_RULES = FOLDER / "components" / "monitoring" / "rules.yaml"
OVERLAYS = sorted(path.parent for path in FOLDER.glob("overlays/*/kustomization.yaml"))

OPERATORS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that are not Kubernetes's own."""

KUBECTL = Path(sys.executable).with_name("kubectl")


def rendered(overlay: Path) -> list[dict[str, Any]]:
    """The objects of an overlay."""
    done = subprocess.run([str(KUBECTL), "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def operator_rules() -> str:
    """Prometheus's rules, as an object of its operator."""
    content = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "mo-grpc"},
        "spec": yaml.safe_load(RULES.read_text(encoding="utf-8")),
    }
    return "# Made from deploy/prometheus/rules.yml by `make generate`.\n" + yaml.safe_dump(content, sort_keys=False, width=120)


def faults() -> Iterator[str]:
    """What is wrong, a line each."""
    if not OPERATOR_RULES.exists() or OPERATOR_RULES.read_text(encoding="utf-8") != operator_rules():
        yield f"{OPERATOR_RULES.name} is not current: run `make generate`."
        return
    version = kubernetes_validate.latest_version()
    for overlay in OVERLAYS:
        for each in rendered(overlay):
            if each["kind"] not in OPERATORS:
                try:
                    kubernetes_validate.validate(each, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    yield f"{overlay.name}: {each['kind']} {each['metadata']['name']}: {error.message}"


def main(arguments: Sequence[str]) -> int:
    """Check, or write; the exit status is 1 if something is wrong."""
    if "--write" in arguments:
        OPERATOR_RULES.write_text(operator_rules(), encoding="utf-8")
        return 0
    found = list(faults())
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
