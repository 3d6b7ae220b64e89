"""The OpenAPI document: valid, fresh, and the service keeps to it whatever it is sent."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo, RetryInfo
from openapi_spec_validator import validate

from mo_grpc.rpc.access import ACCESS, ACCOUNT, GRANTABLE, SERVICES
from tests.auth.users.conftest import NewUser, basic
from tests.conftest import TLS, Stack
from tests.doors import Json
from tests.repository import ROOT
from tests.server.test_every_rpc import RPCS, path

Operation = tuple[str, str, Json]


@pytest.fixture(scope="module")
def document(stack: Stack) -> Json:
    answer: Json = httpx.get(f"{stack.http_url}/openapi.json", verify=TLS).json()
    return answer


def operations(document: Json) -> dict[str, Operation]:
    """From an RPC's name to its path, verb and operation."""
    found = [(path, verb, operation) for path, verbs in document["paths"].items() for verb, operation in verbs.items()]
    return {operation["operationId"]: (path, verb, operation) for path, verb, operation in found}


def test_it_is_what_the_protos_make_and_so_is_all_of_generated() -> None:
    command = [sys.executable, str(ROOT / "protos" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_rpc_that_is_not_yet_everywhere_is_named_with_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    proto = tmp_path / "protos" / "mo" / "customers" / "v1" / "customers.proto"
    rpc = "service CustomerService {\n  rpc Forget(GetCustomerRequest) returns (Customer);"
    proto.write_text(proto.read_text().replace("service CustomerService {", rpc))
    command = [sys.executable, str(tmp_path / "protos" / "generate.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["/mo.customers.v1.CustomerService/Forget"] * 2
    assert "mo_grpc/rpc/access.py" in done.stderr
    assert "google.api.http" in done.stderr
    assert not (tmp_path / "generated").exists()


def test_it_is_valid_and_has_every_rpc(document: Json) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert set(operations(document)) == {rpc.name for rpc in RPCS}
    assert {tag["name"] for tag in document["tags"]} == {service.rpartition(".")[2] for service in SERVICES}


def test_everything_is_described(document: Json) -> None:
    for name, (_, _, operation) in operations(document).items():
        assert operation["summary"], name
        assert operation["description"], name
        assert all(parameter["description"] for parameter in operation.get("parameters", ())), name
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, property_schema in schema["properties"].items():
            assert "$ref" in property_schema or property_schema.get("description") or name.startswith("Error"), (name, field)


def test_each_operation_says_who_may_call(document: Json) -> None:
    for rpc in RPCS:
        _, _, operation = operations(document)[rpc.name]
        schemes = {scheme for requirement in operation["security"] for scheme in requirement}
        scope = ACCESS[path(rpc)]
        expected = {"apiKey", "accessToken"} if scope in GRANTABLE else {"accessToken"} if scope == ACCOUNT else set()
        assert schemes == (expected or ({"basic"} if rpc.name == "CreateToken" else set())), rpc.name
        assert scope not in GRANTABLE or f"`{scope}`" in operation["description"]


@pytest.fixture
def all_scopes(stack: Stack) -> str:
    scopes = [argument for scope in sorted(GRANTABLE) for argument in ("--scope", scope)]
    return stack.cli("keys", "create", "examples", *scopes).stdout.strip()


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
)


def make_calls_up(stack: Stack, folder: Path, header: str, *options: str) -> str:
    """Call the service at random with a header, which answers all calls as documented; returns the report."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program
    command = [program, "run", f"{stack.http_url}/openapi.json", "--header", header, "--checks", ",".join(CHECKS)]
    command += ["--max-examples", "4", "--seed", "1", "--generation-database", "none", "--no-color", *options]
    # None of our code runs in it, and to follow its own would take as long again.
    unfollowed = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    done = subprocess.run(command, cwd=folder, env=unfollowed, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def number(pattern: str, report: str) -> int:
    """A number of a report."""
    [found] = re.findall(pattern, report)
    return int(found)


CALLS = r"(\d+) generated"

# They end much later, and answer a line each time.
WITHOUT_STREAMS = [part for name in ("WatchImport", "WatchEvents", "StreamEvents") for part in ("--exclude-operation-id", name)]


def test_no_made_up_call_fails_the_service_or_is_answered_otherwise_than_documented(
    stack: Stack, all_scopes: str, tmp_path: Path
) -> None:
    phases = ("--phases", "examples,coverage,fuzzing")
    assert number(CALLS, make_calls_up(stack, tmp_path, f"x-api-key: {all_scopes}", *phases, *WITHOUT_STREAMS)) > 500


def test_nor_does_one_that_uses_what_another_answered(stack: Stack, all_scopes: str, tmp_path: Path) -> None:
    """Sequences of calls, by the links between operations that schemathesis infers from the document."""
    options = ("--phases", "stateful", "--max-examples", "20", *WITHOUT_STREAMS)
    report = make_calls_up(stack, tmp_path, f"x-api-key: {all_scopes}", *options)
    assert number(r"API Links: +(\d+) covered", report) >= 1
    assert number(CALLS, report) > 50


def test_nor_does_one_of_a_user(stack: Stack, new_user: NewUser, tmp_path: Path) -> None:
    """What no key may call. Ending the session is left out, because it would end the test."""
    login = httpx.post(f"{stack.http_url}/v1/auth/tokens", headers={"authorization": basic(new_user().email)}, verify=TLS)
    token = login.json()["tokens"]["access_token"]
    services = ("--include-tag", "OtpService", "--include-tag", "TokenService", "--exclude-operation-id", "RevokeToken")
    assert number(CALLS, make_calls_up(stack, tmp_path, f"authorization: Bearer {token}", *services)) > 100


def test_a_body_without_required_fields_may_be_left_out(document: Json, rest: httpx.Client) -> None:
    found = []
    for name, (place, verb, operation) in operations(document).items():
        if not operation.get("requestBody", {"required": True})["required"]:
            answer = rest.request(verb, re.sub(r"\{[a-z_]+\}", "999999", place))
            reasons = [detail["reason"] for detail in answer.json()["details"] if "reason" in detail]
            assert not {"MALFORMED_REQUEST", "INVALID_FIELDS"}.intersection(reasons), name
            found.append(name)
    assert {"ActivateLoan", "RejectLoan", "CancelImport", "RevokeApiKey", "CreateToken"} <= set(found)


def test_a_header_that_grpc_does_not_know_is_no_fault_of_the_service(stack: Stack, rest: httpx.Client) -> None:
    for name in ("x*odd", "odd'name", "a~b", "UPPER`", "x-odd-bin"):
        assert rest.get("/v1/customers", headers={name: "???"}, params={"page_size": 1}).status_code == 200, name


def test_the_details_of_errors_are_described(document: Json, rest: httpx.Client) -> None:
    """So that a generated client can read which field is wrong, what forbids a call, and when to retry."""
    described = document["components"]["schemas"]["ErrorDetail"]["properties"]
    for detail in (BadRequest, PreconditionFailure, ResourceInfo, RetryInfo, ErrorInfo):
        fields = {field.name for field in detail.DESCRIPTOR.fields} - {"owner", "description"}
        assert fields <= described.keys(), detail
    for detail, field in ((BadRequest.FieldViolation, "field_violations"), (PreconditionFailure.Violation, "violations")):
        assert described[field]["items"]["properties"].keys() <= {each.name for each in detail.DESCRIPTOR.fields}
    refused = rest.post("/v1/customers", json={"external_id": "a b"}).json()
    found = {name for detail in refused["details"] for name in detail}
    assert "field_violations" in found
    assert found <= described.keys()
