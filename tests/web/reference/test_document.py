"""The OpenAPI document against the protos and the service: whole, and true to the last example."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from google.api import annotations_pb2
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.users.rules import Role
from mo_grpc.db.embedded import embedded_url
from mo_grpc.imports.servicer import SMALL
from tests.auth.users.conftest import NewUser, basic, totp
from tests.conftest import TLS, Stack
from tests.databases import owner
from tests.doors import method
from tests.factories import new_id
from tests.imports.conftest import Holder
from tests.repository import ROOT
from tests.secrets import PASSWORD
from tests.waiting import eventually
from tests.web.reading import Document


@pytest.fixture
def document(stack: Stack) -> Iterator[Document]:
    """What a visitor without a key finds."""
    run = uuid.uuid4().hex[:8]
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as client:
        named = {"ana": f"ana-{run}", "cy": f"cy-{run}", "6f1c9d6e": run}
        yield Document(client.get("/openapi.json").json(), client, named)


def test_it_is_the_one_that_was_generated(document: Document) -> None:
    assert document.content == json.loads((ROOT / "generated" / "openapi.json").read_text())


def test_its_paths_are_those_of_the_protos(document: Document) -> None:
    packages = {
        "CustomerService": "customers",
        "LoanService": "loans",
        "PaymentService": "payments",
        "ImportService": "imports",
        "StatementService": "statements",
        "JournalService": "journal",
        "WebhookService": "webhooks",
    }
    for name, operation in document.operations.items():
        [service] = operation.content["tags"]
        rule = method(f"{packages.get(service, 'auth')}.{name}").GetOptions().Extensions[annotations_pb2.http]
        assert rule.WhichOneof("pattern") == operation.verb
        assert getattr(rule, operation.verb).replace("{customer.", "{").replace("{webhook.", "{") == operation.path
        assert [part for part in operation.path_examples if f"{{{part}}}" not in operation.path] == []
        assert operation.path.count("{") == len(operation.path_examples)


def test_it_lists_the_reasons_of_errors(document: Document) -> None:
    described = document.content["components"]["schemas"]["ErrorDetail"]["properties"]["reason"]["enum"]
    assert set(described) == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


def test_each_example_fits_its_schema(document: Document) -> None:
    """Those of requests, answers and refusals, of parameters, and of each field."""
    examples = list(document.examples())
    assert len(examples) > 200
    faults = {where: found for where, schema, example in examples if (found := document.faults(schema, example))}
    assert faults == {}


def test_each_example_is_answered_as_described(document: Document, stack: Stack, new_user: NewUser) -> None:
    """A story in which every operation is called, with the examples of the document as far as ids can be chosen."""
    user = new_user(Role.ADMINISTRATOR)
    lend(document, {"x-api-key": stack.api_key})
    import_files(document, {"x-api-key": stack.api_key}, stack)
    follow_events(document, {"x-api-key": stack.api_key})
    bearer = {"authorization": f"Bearer {log_in(document, user.email)}"}
    make_keys(document, bearer)
    make_webhooks(document, bearer, stack)
    document.try_out("RevokeToken", bearer)
    assert document.tried == set(document.operations)


def lend(document: Document, key: dict[str, str]) -> None:
    for operation in ("CreateCustomer", "GetCustomer", "ListCustomers"):
        document.try_out(operation, key)
    [change] = [body["example"] for body in document.operations["UpdateCustomer"].bodies.values()]
    etag = document.content["components"]["schemas"]["CustomerPatch"]["properties"]["etag"]["examples"][0]
    updated = document.try_out("UpdateCustomer", key, query={"update_mask": "score"}, body=change | {"etag": etag})
    assert updated["score"] == "1500.00"
    for operation in ("GetCustomerBalance", "CreateLoan", "ActivateLoan", "GetLoan", "ListLoans"):
        document.try_out(operation, key)
    [loan] = [body["example"] for body in document.operations["CreateLoan"].bodies.values()]
    ana = document.named["ana"]
    document.try_out("CreateLoan", key, body=loan | {"external_id": f"{ana}-2", "customer_external_id": ana})
    document.try_out("RejectLoan", key)
    assert document.try_out("CreatePayment", key)["status"] == "COMPLETED"
    [result] = document.try_out("BatchCreatePayments", key)["results"]
    assert result["payment"]["status"] == "COMPLETED"
    for operation in ("GetPayment", "ListPayments", "RejectPayment", "ExplainPayment", "ListEvents", "GetStatement"):
        document.try_out(operation, key)


def follow_events(document: Document, key: dict[str, str]) -> None:
    """Streams that do not end by themselves: the first lines are looked at."""
    for name, media_type in (("WatchEvents", "application/json"), ("StreamEvents", "text/event-stream")):
        operation = document.operations[name]
        document.tried.add(name)
        [(described, content)] = operation.content["responses"]["200"]["content"].items()
        with document.client.stream(operation.verb, operation.path, params={"after_position": 0}, headers=key) as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
            assert described == media_type
            lines = answer.iter_lines()
            if name == "WatchEvents":
                for line in (next(lines), next(lines)):
                    assert document.faults(content["schema"], json.loads(line), closed=True) == []
            else:
                assert next(lines).startswith("retry: ")


def import_files(document: Document, key: dict[str, str], stack: Stack) -> None:
    uploaded = document.try_out("UploadCustomers", key)
    assert list(document.operations["UploadCustomers"].bodies) == ["multipart/form-data", "text/csv", "text/plain"]
    assert (uploaded["created_count"], uploaded["failed_count"]) == (1, 0)
    created = document.try_out("CreateImport", key, body={"source": uploaded["source"]})
    place = {"id": created["id"]}
    assert document.try_out("WatchImport", key, path=place)["state"] == "SUCCEEDED"
    for operation in ("GetImport", "ListImports", "ListImportErrors"):
        document.try_out(operation, key, path=place)
    with ExitStack() as held:
        for _ in range(int(stack.environment["MO_WORKERS"])):  # each runs one; the next import waits until one of these ends
            prefix = new_id("large")
            large = "".join(f"{prefix}-{number},1\n" for number in range(SMALL + 1))
            holder = held.enter_context(Holder(embedded_url(stack.data_dir), f"{prefix}-0"))
            document.try_out("UploadCustomers", key, body={"file": large})
            eventually(holder.reached, 30)
        waiting = document.try_out("CreateImport", key, body={"source": uploaded["source"]})
        assert document.try_out("CancelImport", key, path={"id": waiting["id"]})["state"] == "CANCELLED"


def log_in(document: Document, email: str) -> str:
    """Log in, with a code too; answers an access token."""
    first = document.try_out("CreateToken", {"authorization": basic(email)})["tokens"]
    token = str(document.try_out("RefreshToken", body={"refresh_token": first["refresh_token"]})["access_token"])
    document.try_out("GetJwks")
    bearer = {"authorization": f"Bearer {token}"}
    secret = document.try_out("EnrollOtp", bearer, body={"password": PASSWORD})["secret"]
    recovery = document.try_out("ConfirmOtp", bearer, body={"code": totp(secret, -1)})["recovery_codes"]
    challenge = document.try_out("CreateToken", {"authorization": basic(email)})["otp_challenge"]
    document.try_out("CreateToken", body={"challenge": challenge["challenge"], "code": totp(secret)})
    document.try_out("DisableOtp", bearer, body={"password": PASSWORD, "code": recovery[0]})
    return token


def make_keys(document: Document, bearer: dict[str, str]) -> None:
    place = {"id": document.try_out("CreateApiKey", bearer)["id"]}
    for operation in ("GetApiKey", "ListApiKeys", "RotateApiKey", "RevokeApiKey"):
        document.try_out(operation, bearer, path=place)


def make_webhooks(document: Document, bearer: dict[str, str], stack: Stack) -> None:
    """Nobody is called: the host of the example does not exist, and what stands in for it is not public later."""
    [example] = [body["example"] for body in document.operations["CreateWebhook"].bodies.values()]
    created = document.try_out("CreateWebhook", bearer, body=example | {"url": "https://203.0.114.7/", "disabled": True})
    place = {"id": created["id"]}
    document.try_out("UpdateWebhook", bearer, path=place, body={"disabled": True})
    with owner(stack.data_dir) as connection:
        connection.execute("UPDATE webhooks SET url = 'https://localhost/' WHERE id = %s", [created["id"]])
    attempt = document.try_out("SendTestEvent", bearer, path=place)
    with owner(stack.data_dir) as connection:
        connection.execute("UPDATE webhook_attempts SET position = 1 WHERE id = %s", [attempt["id"]])
    for operation in ("GetWebhook", "ListWebhooks", "RotateSecret", "ResendFailed"):
        document.try_out(operation, bearer, path=place)
    document.try_out("ListAttempts", bearer, path={"webhook_id": created["id"]})
    document.try_out("ResendAttempt", bearer, path={"webhook_id": created["id"], "id": attempt["id"]})
    document.try_out("DeleteWebhook", bearer, path=place)
