"""The REST paths of the protos (`google.api.http`), as Envoy's routes match them, and the members of their bodies."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool


class Path(NamedTuple):
    """A path, as a regular expression (RE2), and the verbs that it takes."""

    pattern: str
    verbs: tuple[str, ...]


def rest_paths(files: FileDescriptorSet) -> list[Path]:
    """The paths of our services, those without ids first, since they may be matched by one with an id, too.

    An id has no colon here: that leads to a custom verb (`/v1/loans/x:activate`).
    """
    templates = sorted(_bindings(files), key=lambda binding: ("{" in binding[1], binding[1]))
    paths = {_pattern(template): template for _, template in templates}
    return [
        Path(pattern, tuple(sorted({verb for verb, other in templates if re.fullmatch(_pattern(other), example)})))
        for pattern, example in ((pattern, re.sub("{[^}]+}", "{}", template)) for pattern, template in paths.items())
    ]


def by_verb(paths: list[Path]) -> dict[str, str]:
    """All paths that take a verb, as one expression."""
    verbs = sorted({verb for path in paths for verb in path.verbs})
    return {verb: "|".join(path.pattern for path in paths if verb in path.verbs) for verb in verbs}


def body_members(files: FileDescriptorSet) -> dict[str, set[str]]:
    """What the members of a JSON body may be called, at whatever depth, by `body_key`."""
    pool = DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    members: dict[str, set[str]] = {}
    for rpc in _rpcs(files):
        rule: Any = rpc.options.Extensions[annotations_pb2.http]
        request = pool.FindMessageTypeByName(rpc.input_type.removeprefix("."))
        if rule.body and request.full_name.startswith("mo."):  # else it is a file
            body = None if rule.body == "*" else request.fields_by_name[rule.body].message_type
            members[body_key(getattr(rule, rule.WhichOneof("pattern")))] = _names(body or request)
    return members


def body_key(path: str) -> str:
    """What tells bodies apart: a path's collection and custom verb, as `envoy/unknown_members.lua` finds them, too."""
    collection = re.match("/v1/([^/:]*)", path)
    return f"{collection[1] if collection else ''}:{path.partition(':')[2]}"


def _names(message: Descriptor) -> set[str]:
    found = {name for field in message.fields for name in (field.name, field.json_name)}
    # Times and masks are strings in JSON.
    inner = [field.message_type for field in message.fields if field.message_type]
    return found.union(*(_names(each) for each in inner if each.full_name.startswith("mo.")))


def _rpcs(files: FileDescriptorSet) -> Iterator[MethodDescriptorProto]:
    return (rpc for file in files.file for service in file.service for rpc in service.method)


def _bindings(files: FileDescriptorSet) -> Iterator[tuple[str, str]]:
    for rpc in _rpcs(files):
        rule: Any = rpc.options.Extensions[annotations_pb2.http]
        if verb := rule.WhichOneof("pattern"):
            yield verb.upper(), getattr(rule, verb)


def _pattern(template: str) -> str:
    return "".join("[^/:]+" if part.startswith("{") else re.escape(part) for part in re.split("({[^}]+})", template))
