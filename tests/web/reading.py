"""The OpenAPI document as a client reads it: calls are made, and answers judged, by what it says alone."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
from jsonschema_rs import Draft202012Validator

from tests import secrets
from tests.doors import Json

VERBS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Operation:
    """One call that the document describes."""

    path: str
    verb: str
    content: Json

    @property
    def id(self) -> str:
        return str(self.content["operationId"])

    @property
    def path_examples(self) -> dict[str, str]:
        return {each["name"]: each["example"] for each in self.content.get("parameters", ()) if each["in"] == "path"}

    @property
    def bodies(self) -> dict[str, Json]:
        """By content type, what the body may be."""
        found: dict[str, Json] = self.content.get("requestBody", {}).get("content", {})
        return found


@dataclass
class Document:
    """The document, and an HTTP client to try it out with."""

    content: Json
    client: httpx.Client
    named: dict[str, str] = field(default_factory=dict)
    """From the ids in its examples to others that are free; `ana-1` changes with `ana`."""
    tried: set[str] = field(default_factory=set)
    """The ids of the operations that were called."""

    @cached_property
    def operations(self) -> dict[str, Operation]:
        found = [
            Operation(path, verb, content)
            for path, item in self.content["paths"].items()
            for verb, content in item.items()
            if verb in VERBS
        ]
        return {operation.id: operation for operation in found}

    def resolved(self, found: Json) -> Json:
        """What a reference refers to; anything else is itself."""
        if "$ref" in found:
            step = self.content
            for name in found["$ref"].removeprefix("#/").split("/"):
                step = step[name]
            return step
        return found

    def faults(self, schema: Json, value: object, *, closed: bool = False) -> list[str]:
        """How a value breaks a schema; `closed`: a property that is not described is a fault."""
        components = _closed(self.content["components"]) if closed else self.content["components"]
        validator = Draft202012Validator(schema | {"components": components}, validate_formats=True)
        return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]

    def examples(self) -> Iterator[tuple[str, Json, object]]:
        """Every example: where it is, its schema, and itself."""
        for operation in self.operations.values():
            for parameter in operation.content.get("parameters", ()):
                if "example" in parameter:
                    yield f"{operation.id} {parameter['name']}", parameter["schema"], parameter["example"]
            for media_type, body in operation.bodies.items():
                yield f"{operation.id} {media_type}", body["schema"], body["example"]
            for status, answer in operation.content["responses"].items():
                for body in self.resolved(answer).get("content", {}).values():
                    yield f"{operation.id} {status}", body["schema"], body["example"]
        for name, schema in self.content["components"]["schemas"].items():
            for key, described in schema["properties"].items():
                for example in described.get("examples", ()):
                    yield f"{name}.{key}", described, example

    def try_out(
        self,
        operation_id: str,
        headers: dict[str, str] | None = None,
        *,
        path: dict[str, str] | None = None,
        body: object = None,
        query: dict[str, str] | None = None,
    ) -> Any:
        """Send the examples of an operation, which must succeed, with an answer that has nothing but what is described.

        Args:
            operation_id: the operation.
            headers: the credentials.
            path: what the path needs instead of its examples, because the service chooses it.
            body: the same for the body.
            query: the query.
        """
        operation = self.operations[operation_id]
        self.tried.add(operation_id)
        values = self._named_otherwise(operation.path_examples) | (path or {})
        url = re.sub(r"\{([^}]+)\}", lambda match: values[match[1]], operation.path)
        sent: dict[str, Any] = {}
        if operation.bodies:
            media_type, described = next(iter(operation.bodies.items()))
            example: Any = self._named_otherwise(described["example"]) if body is None else body
            if media_type == "multipart/form-data":
                sent = {"files": {name: (f"{name}.txt", content) for name, content in example.items()}}
            else:
                content = json.dumps(example) if media_type == "application/json" else str(example)
                sent = {"content": content, "headers": {"content-type": media_type}}
        sent["headers"] = sent.get("headers", {}) | (headers or {})
        answer = self.client.request(operation.verb, url, params=query, **sent)
        assert answer.status_code == 200, f"{operation_id}: {answer.text}"
        [(media_type, described)] = operation.content["responses"]["200"]["content"].items()
        assert answer.headers["content-type"] == media_type
        lines = [json.loads(line) for line in answer.text.splitlines()]
        for line in lines:
            secrets.answered(line)
            assert self.faults(described["schema"], line, closed=True) == [], operation_id
        return lines[-1]

    def _named_otherwise(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._named_otherwise(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._named_otherwise(item) for item in value]
        if isinstance(value, str):
            for old, new in self.named.items():
                value = re.sub(rf"\b{old}\b", new, value)
        return value


def _closed(components: Json) -> Json:
    """Schemas that allow no property but those described, except an error's details, which are of many types."""
    found = copy.deepcopy(components)
    for name, schema in found["schemas"].items():
        if name != "ErrorDetail":
            schema["additionalProperties"] = False
    return found
