"""The OpenAPI document: valid, true to the answers, and each of its examples run against the service."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from mo_grpc.auth.access import ACCESS, ACCOUNT, GRANTABLE
from mo_grpc.config import ROOT
from mo_grpc.server import SERVICES
from tests.auth.test_every_rpc import RPCS, path
from tests.conftest import TLS, Stack
from tests.doors import Json
from tests.factories import new_id
from tests.people.conftest import NewPerson, basic

Operation = tuple[str, str, Json]


@pytest.fixture(scope="module")
def document(stack: Stack) -> Json:
    answer: Json = httpx.get(f"{stack.http_url}/openapi.json", verify=TLS).json()
    return answer


def operations(document: Json) -> dict[str, Operation]:
    """From an RPC's name to its path, verb and operation."""
    found = [(path, verb, operation) for path, verbs in document["paths"].items() for verb, operation in verbs.items()]
    return {operation["operationId"]: (path, verb, operation) for path, verb, operation in found}


def faults(document: Json, schema: Json, value: object) -> list[str]:
    """What of a value is not as a schema of the document says."""
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def test_it_is_what_the_protos_make_and_so_is_all_of_generated() -> None:
    command = [sys.executable, str(ROOT / "protos" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "")


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


def test_every_example_is_as_its_schema_says(document: Json) -> None:
    for name, (_, _, operation) in operations(document).items():
        contents = [operation.get("requestBody", {}).get("content", {}), operation["responses"]["200"]["content"]]
        for content in contents:
            for kind, media in content.items():
                assert faults(document, media["schema"], media["example"]) == [], (name, kind)
        for parameter in operation.get("parameters", ()):
            if "example" in parameter:
                assert faults(document, parameter["schema"], parameter["example"]) == [], name
    for name, response in document["components"]["responses"].items():
        media = response["content"]["application/json"]
        assert faults(document, media["schema"], media["example"]) == [], name


# The order in which one leads to the next; what the answer of one names stands for the example's name in those after it.
STORY = [
    *["CreateCustomer", "GetCustomer", "ListCustomers", "UpdateCustomer", "GetCustomerBalance"],
    *["CreateLoan", "GetLoan", "ListLoans", "ActivateLoan"],
    *["CreatePayment", "GetPayment", "ListPayments", "BatchCreatePayments", "RejectPayment"],
    *["UploadCustomers", "ListImports", "GetImport", "ListImportErrors", "WatchImport"],
    *["CreateApiKey", "GetApiKey", "ListApiKeys", "RotateApiKey", "RevokeApiKey", "GetJwks", "CreateToken"],
]
# These need something first that no example can hold: a second loan, a stored file, an import that runs, codes and tokens.
ELSEWHERE = {
    *["RejectLoan", "CreateImport", "CancelImport"],
    *["RefreshToken", "RevokeToken", "EnrollOtp", "ConfirmOtp", "DisableOtp"],
}


@pytest.fixture
def all_scopes(stack: Stack) -> str:
    scopes = [argument for scope in sorted(GRANTABLE) for argument in ("--scope", scope)]
    return stack.cli("keys", "create", "examples", *scopes).stdout.strip()


def test_every_example_runs(document: Json, stack: Stack, all_scopes: str, new_person: NewPerson) -> None:
    assert {*STORY, *ELSEWHERE} == set(operations(document))
    ana, cy = new_id("ana"), new_id("cy")
    ours = json.loads(re.sub(r"\bana\b(?!@|%)", ana, json.dumps(document)).replace("\\ncy,", f"\\n{cy},"))
    names: dict[str, str] = {}
    with httpx.Client(base_url=stack.http_url, headers={"x-api-key": all_scopes}, timeout=30, verify=TLS) as client:
        for name in STORY:
            place, verb, operation = operations(ours)[name]
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    value = names.get(f"{operation['tags'][0]}.{parameter['name']}", parameter["example"])
                    place = place.replace(f"{{{parameter['name']}}}", value)
            headers = {"authorization": basic(new_person().email)} if name == "CreateToken" else {}
            body: dict[str, Any] = {}
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                headers["content-type"] = kind
                example = media["example"]
                body = {"content": example if isinstance(example, str) else json.dumps(example)}
                break
            answer = client.request(verb, place, headers=headers, **body)
            assert answer.status_code == 200, (name, answer.text)
            for line in answer.text.splitlines():
                content = json.loads(line)
                assert faults(ours, operation["responses"]["200"]["content"]["application/json"]["schema"], content) == [], name
            if name in ("UploadCustomers", "CreateApiKey"):
                names[f"{operation['tags'][0]}.id"] = content["id"]


def test_no_made_up_call_fails_the_service_or_is_answered_otherwise_than_documented(
    stack: Stack, all_scopes: str, tmp_path: Path
) -> None:
    """Watching is left out: it ends when an import does, and answers a line each time."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program
    command = [program, "run", f"{stack.http_url}/openapi.json"]
    options = ["--header", f"x-api-key: {all_scopes}", "--checks", checks, "--max-examples", "15", "--seed", "1"]
    options += ["--exclude-operation-id", "WatchImport", "--generation-database", "none", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    [generated] = re.findall(r"(\d+) generated", done.stdout)
    assert int(generated) > 500


def test_a_header_that_grpc_does_not_know_is_no_fault_of_the_service(stack: Stack, rest: httpx.Client) -> None:
    for name in ("x*odd", "odd'name", "a~b", "UPPER`", "x-odd-bin"):
        assert rest.get("/v1/customers", headers={name: "???"}, params={"page_size": 1}).status_code == 200, name
