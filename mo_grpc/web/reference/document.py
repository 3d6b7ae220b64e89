"""The document: the RPCs as operations, with who may call them and how they are refused."""

import re
from collections.abc import Iterator
from typing import Any, Final

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.edge.http_errors import REFERENCE_ERRORS, HttpError
from mo_grpc.errors import DOMAIN
from mo_grpc.imports.form import CONTENT_TYPE as FORM
from mo_grpc.imports.form import FILE_FIELD
from mo_grpc.rpc.access import ACCESS, ACCOUNT, BASIC, PUBLIC
from mo_grpc.web.reference.examples import FILE, REQUESTS
from mo_grpc.web.reference.schemas import DocumentError, Protos, Schema, example_value, short

KEY_HEADER: Final = "x-api-key"
"""A placeholder for the name of the API keys' header; the server replaces it by the setting."""

_ORDER: Final = "mo.customers.v1 mo.loans.v1 mo.payments.v1 mo.imports.v1 mo.auth.v1"

_HTTP_BODY = ".google.api.HttpBody"
_SECURITY: Final[dict[str, list[dict[str, list[str]]]]] = {
    PUBLIC: [],
    ACCOUNT: [{"accessToken": []}],
    BASIC: [],
}
_SCOPED: Final[list[dict[str, list[str]]]] = [{"apiKey": []}, {"accessToken": []}]

_INFO: Final = {
    "title": "MO over gRPC",
    "version": "v1",
    "summary": "A lender's back end: customers with a credit line, loans that draw on it, payments spread over the loans.",
    "description": (
        "The same API as over gRPC, in JSON. Amounts of money are decimal strings with two places, times are RFC 3339, ids are "
        "chosen by the client. A create that is sent again with the same `Idempotency-Key` takes effect once. Lists are "
        "newest first, in pages. Every error has a `reason` that does not change; decide by that."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}


def document(files: FileDescriptorSet) -> Schema:
    """The OpenAPI 3.1 document of all services in a descriptor set that has the comments.

    Raises:
        DocumentError: something about the protos has to be said elsewhere first.
    """
    _check(files)
    protos = Protos(files)
    paths: dict[str, Schema] = {}
    tags = []
    schemas: dict[str, Schema] = _errors(protos)
    # What the service is for comes first, who may call it last.
    for file in sorted(files.file, key=lambda file: (_ORDER.find(file.package), file.name)):
        for place, service in enumerate(file.service):
            tags.append({"name": service.name, "description": protos.comment(file.name, 6, place)})
            for number, rpc in enumerate(service.method):
                full_name = f"/{file.package}.{service.name}/{rpc.name}"
                comment = protos.comment(file.name, 6, place, 2, number)
                path, verb, operation = _operation(protos, rpc, comment, ACCESS[full_name], schemas)
                paths.setdefault(path, {})[verb] = {"tags": [service.name], **operation}
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": _security_schemes(),
            "responses": {f"Refused{error.http_status}": _refused(error) for error in REFERENCE_ERRORS},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _check(files: FileDescriptorSet) -> None:
    """What is missing of the RPCs, all of it at once."""
    missing = []
    for file in files.file:
        for service in file.service:
            for rpc in service.method:
                name = f"/{file.package}.{service.name}/{rpc.name}"
                if name not in ACCESS:
                    missing.append(f"{name} is not in ACCESS, which says who may call it: add it to mo_grpc/rpc/access.py")
                if not rpc.options.HasExtension(annotations_pb2.http):
                    missing.append(f"{name} has no path for REST: give it an option (google.api.http)")
    if missing:
        raise DocumentError("\n".join(missing))


def _operation(
    protos: Protos, rpc: MethodDescriptorProto, comment: str, scope: str, schemas: dict[str, Schema]
) -> tuple[str, str, Schema]:
    rule: Any = rpc.options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    path: str = getattr(rule, verb)
    in_path = re.findall(r"\{([a-z_.]+)\}", path)
    paragraphs = [" ".join(paragraph.split()) for paragraph in comment.split("\n\n")]
    needs = {PUBLIC: "Needs no key.", BASIC: "Needs no key: it looks at other credentials."}
    paragraphs.append(needs.get(scope, f"Needs the scope `{scope}`."))
    parameters = list(_parameters(protos, rpc, rule.body, in_path))
    if scope not in (PUBLIC, BASIC, ACCOUNT) and verb != "get" and "ApiKey" not in rpc.name:
        parameters.append(_IDEMPOTENCY_KEY)
    if verb == "patch":
        parameters.append(_IF_MATCH)
    if rpc.output_type == _HTTP_BODY:
        parameters.append(_LAST_EVENT_ID)
    operation: Schema = {
        "operationId": rpc.name,
        "summary": _title(rpc.name),
        "description": "\n\n".join(paragraphs),
        "security": [{"basic": []}, {}] if rpc.name == "CreateToken" else _SECURITY.get(scope, _SCOPED),
    }
    if parameters:
        operation["parameters"] = parameters
    if rule.body:
        operation["requestBody"] = _request_body(protos, rpc, rule.body, verb, in_path, schemas)
    operation["responses"] = _responses(protos, rpc, comment, scope, bool(rule.body), schemas)
    # Only where the body holds the id does its field have another's name before it.
    return re.sub(r"\{[a-z_]+\.", "{", path), verb, operation


def _title(name: str) -> str:
    """`CreateApiKey` in words."""
    words = [_WORDS.get(word, word.lower()) for word in re.findall("[A-Z][a-z]+", name)]
    return " ".join([words[0].capitalize(), *words[1:]])


_WORDS: Final = {"Api": "API", "Jwks": "JWKS", "Otp": "OTP"}

_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A key under which this call takes effect once, however often it is sent.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}

_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "description": "The etag that was read, instead of in the body (RFC 9110); `*` for any.",
    "schema": {"type": "string", "pattern": '^([*]|"[!#-~]*")$'},
}

_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The position to go on from, as browsers send it; it goes before `after_position`.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}


def _parameters(protos: Protos, rpc: MethodDescriptorProto, body: str, in_path: list[str]) -> Iterator[Schema]:
    for name in in_path:
        schema = protos.parameter(rpc.input_type, name)
        yield _parameter(rpc, name, "path", schema) | {"required": True}
    if body == "*":
        return
    for field in protos.messages[rpc.input_type].field:
        # Over REST, a call's own key is in the header.
        if field.name not in (body, *in_path, "idempotency_key"):
            for name in protos.query_names(field):
                yield _parameter(rpc, name, "query", protos.parameter(rpc.input_type, name)) | {"name": name}


def _parameter(rpc: MethodDescriptorProto, name: str, place: str, schema: Schema) -> Schema:
    description = schema.pop("description")
    schema.pop("examples", None)
    example = example_value(short(rpc.input_type), name.rpartition(".")[2])
    found: Schema = {"name": name.rpartition(".")[2], "in": place, "description": description, "schema": schema}
    return found | ({"example": example} if place == "path" else {})


def _request_body(
    protos: Protos, rpc: MethodDescriptorProto, body: str, verb: str, in_path: list[str], schemas: dict[str, Schema]
) -> Schema:
    if rpc.input_type == _HTTP_BODY:
        # The form comes first, since makers of clients take the first kind that they know.
        file = {"type": "string", "format": "binary", "description": "The file; its field may have another name as well."}
        form = {
            "schema": {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: file}},
            "example": {FILE_FIELD: FILE},
        }
        text = {"schema": {"type": "string"}, "example": FILE}
        kinds = {FORM: form, "text/csv": text, "text/plain": text}
        return {"required": True, "description": "The file, in a form or by itself.", "content": kinds}
    if body == "*":
        name = short(rpc.input_type)
        schemas[name] = protos.schema(rpc.input_type, in_path)
        _collect(protos, rpc.input_type, schemas)
    else:
        [field] = [field for field in protos.messages[rpc.input_type].field if field.name == body]
        name = short(field.type_name)
        if verb == "patch":
            name = f"{name}Patch"
            schemas[name] = protos.schema(field.type_name, [path.rpartition(".")[2] for path in in_path], partial=True)
        else:
            _collect(protos, field.type_name, schemas, itself=True)
    content: Schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    example = REQUESTS.get(rpc.name)
    if example is None:
        example = {key: example_value(name, key) for key in schemas[name]["properties"]}
    # Without a body, all of its fields are unset; but a change of nothing is none.
    return {
        "required": verb == "patch" or "required" in schemas[name],
        "content": {"application/json": content | {"example": example}},
    }


def _responses(
    protos: Protos,
    rpc: MethodDescriptorProto,
    comment: str,
    scope: str,
    has_body: bool,
    schemas: dict[str, Schema],
) -> Schema:
    if rpc.output_type == _HTTP_BODY:
        answer = {"description": "Server-Sent Events.", "content": {"text/event-stream": _SERVER_SENT}}
    else:
        _collect(protos, rpc.output_type, schemas, itself=True)
        content = {"schema": protos.reference(rpc.output_type), "example": protos.example(rpc.output_type)}
        described = "A line of JSON each time." if rpc.server_streaming else "Done."
        answer = {"description": described, "content": {"application/json": content}}
    responses: Schema = {"200": answer}
    statuses = {"400", "404", "408", "429", "431", "500", "502", "503", "504"}
    if scope != PUBLIC:
        statuses |= {"401", "403"}
    if has_body:
        statuses |= {"413", "415"}
    if has_body or "ALREADY_EXISTS" in comment or "ABORTED" in comment:
        statuses |= {"409"}
    return responses | {status: {"$ref": f"#/components/responses/Refused{status}"} for status in sorted(statuses)}


_SERVER_SENT: Final = {"schema": {"type": "string"}, "example": 'id: 7\nevent: LOAN_PAID\ndata: {"position": "7"}\n\n'}


def _refused(error: HttpError) -> Schema:
    description = error.meaning or error.message
    reason = ErrorReason.Name(error.reason if error.example is None else error.example)
    info = {"@type": _ERROR_INFO, "reason": reason, "domain": DOMAIN, "metadata": {}}
    example = {"code": error.code, "message": description, "details": [info]}
    schema = {"schema": {"$ref": "#/components/schemas/Error"}, "example": example}
    return {"description": description, "content": {"application/json": schema}}


def _collect(protos: Protos, name: str, schemas: dict[str, Schema], *, itself: bool = False) -> None:
    """Add the schemas that a message's refers to, and its own."""
    if itself:
        if short(name) in schemas or protos.reference(name)["$ref"].endswith("/Error"):
            return
        schemas[short(name)] = protos.schema(name)
    for field in protos.messages[name].field:
        if field.type_name in protos.messages and "$ref" in protos.reference(field.type_name):
            _collect(protos, field.type_name, schemas, itself=True)


_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


def _errors(protos: Protos) -> dict[str, Schema]:
    reasons = [(name, text) for name, text in protos.values(".mo.errors.v1.ErrorReason") if not name.endswith("UNSPECIFIED")]
    listed = "\n".join(f"- `{name}`: {' '.join(text.split())}" for name, text in reasons)
    return {
        "Error": {
            "type": "object",
            "description": f"Why a call was refused (`google.rpc.Status`). The reasons:\n\n{listed}",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The code of gRPC.", "minimum": 1, "maximum": 16},
                "message": {"type": "string", "description": "For people; it may change."},
                "details": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorDetail"}},
            },
        },
        "ErrorDetail": {
            "type": "object",
            "description": "One of the messages of `google/rpc/error_details.proto`; one is always the ErrorInfo.",
            "required": ["@type"],
            "properties": {
                "@type": {"type": "string", "examples": [_ERROR_INFO]},
                "reason": {"type": "string", "enum": [name for name, _ in reasons]},
                "domain": {"type": "string", "examples": ["mo"]},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                "field_violations": _details("Of a BadRequest: each wrong field, and why.", "field", "description"),
                "violations": _details(
                    "Of a PreconditionFailure: what forbids the call, of which resource.", "type", "subject", "description"
                ),
                "resource_type": _text("Of a ResourceInfo: the resource's message, such as `mo.loans.v1.Loan`."),
                "resource_name": _text("Of a ResourceInfo: the resource's id."),
                "retry_delay": _text("Of a RetryInfo: how long to wait, such as `0.500s`."),
            },
        },
    }


def _details(description: str, *fields: str) -> Schema:
    items = {"type": "object", "properties": {field: {"type": "string"} for field in fields}}
    return {"type": "array", "description": description, "items": items}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _security_schemes() -> Schema:
    return {
        "apiKey": {"type": "apiKey", "in": "header", "name": KEY_HEADER, "description": "A program's key."},
        "accessToken": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A person's access token, from CreateToken.",
        },
        "basic": {"type": "http", "scheme": "basic", "description": "A person's e-mail and password, for CreateToken alone."},
    }
