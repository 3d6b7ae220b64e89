"""A real Prometheus, with the configuration that `up` wrote; every query of the rules and dashboards on what it scraped."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import Stack, free_port, run_cli
from tests.databases import as_text, migrated_database
from tests.doors import GrpcDoor, Refused, RestDoor
from tests.factories import a_customer, a_loan, new_id, pay
from tests.waiting import TO_START, eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="Prometheus is not installed")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[tuple[str, str, str]]:
    """Each panel's board, title, and query."""
    return [
        (board.stem, panel["title"], target["expr"])
        for board in BOARDS
        for panel in json.loads(board.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configuration(stack: Stack) -> str:
    return (stack.data_dir / "prometheus.yml").read_text()


def some_load(direct: GrpcDoor, rest: RestDoor) -> None:
    for door in (direct, rest):
        customer = a_customer(door)
        a_loan(door, customer)
        keyed = door.keyed(new_id("key"))
        payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "1.00"}
        for _ in range(2):
            keyed("payments.CreatePayment", payment=payment)
        door("payments.RejectPayment", external_id=pay(door, customer, "2.00")["external_id"], reason="bounced")
        with pytest.raises(Refused):
            pay(door, new_id("nobody"), "1.00")


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus, which scrapes more often than it should, so that rates are there soon."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    with migrated_database(stack.data_dir) as url:
        environment = stack.environment | {"MO_DATABASE_URL": as_text(url)}
        run_cli(environment, "audit", "--metrics", str(stack.data_dir / "metrics" / "audit.prom"))
    (folder / "prometheus.yml").write_text(configuration(stack).replace("_interval: 5s", "_interval: 500ms"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client:
            eventually(lambda: is_ready(client), TO_START)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/query", params={"query": "1"}).status_code == 200
    except httpx.TransportError:
        return False


def answer(prometheus: httpx.Client, query: str) -> list[Any]:
    found = prometheus.get("/query", params={"query": query}).json()
    assert found["status"] == "success", (query, found)
    return list(found["data"]["result"])


def test_the_configuration_and_the_rules_are_right_and_each_alert_fires_when_it_should(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(configuration(stack))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))
    promtool("test", "rules", *map(str, RULES.parent.glob("*_test.yml")))
    tested = "".join(path.read_text() for path in RULES.parent.glob("*_test.yml"))
    assert [rule["alert"] for rule in rules() if "alert" in rule and f"alertname: {rule['alert']}\n" not in tested] == []


def test_each_alert_has_a_runbook() -> None:
    for rule in rules():
        if "alert" in rule:
            name = rule["alert"]
            assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
            section = OPERATIONS.partition(f"### {name}\n")[2].partition("\n#")[0]
            for part in ("**Symptom.**", "**First look.**", "**Remedy.**"):
                assert part in section, name
    named = re.findall(r"^### (Mo\w+)$", OPERATIONS, re.MULTILINE)
    assert sorted(named) == sorted(rule["alert"] for rule in rules() if "alert" in rule)


def test_no_query_of_a_rule_or_a_dashboard_is_empty(prometheus: httpx.Client, over_grpc: GrpcDoor, over_rest: RestDoor) -> None:
    queries = {f"{board}: {title}": query for board, title, query in panels()}
    queries |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    assert len(queries) == len({*map(str, queries)})
    left = {
        name: re.sub(r" (>|<|==) ", r" \1 bool ", query)  # so that an alert that does not fire has an answer, too
        .replace("$__rate_interval", "1m")
        .replace("$instance", ".*")
        for name, query in queries.items()
    }

    def all_answered() -> bool:
        some_load(over_grpc, over_rest)
        for name, query in list(left.items()):
            if answer(prometheus, query):
                del left[name]
        return not left

    try:
        eventually(all_answered, 30)
    except AssertionError:
        raise AssertionError(f"no answer: {left}") from None
    assert {target["health"] for target in prometheus.get("/targets").json()["data"]["activeTargets"]} == {"up"}
    firing = {alert["labels"]["alertname"] for alert in prometheus.get("/alerts").json()["data"]["alerts"]}
    assert not firing & {"MoDown", "MoEdgeDown", "MoEdgeHasNoServer", "MoAuditFindsFaults"}


def test_the_dashboards_have_every_metric_that_there_is_and_no_other(prometheus: httpx.Client) -> None:
    text = " ".join(query for *_, query in panels()) + " ".join(rule["expr"] for rule in rules())
    used = set(re.findall(r"\b(?:mo|grpc_server)_[a-z_]+", text)) - {"mo_grpc"}
    known = {name for name in prometheus.get("/label/__name__/values").json()["data"] if re.match("mo_|grpc_server_", name)}
    assert used <= known
    families = {re.sub("_(bucket|sum|count|total)$", "", name) for name in known}
    seen = {re.sub("_(bucket|sum|count|total)$", "", name) for name in used}
    assert families - seen == {"mo_audit_checked_rows"}
