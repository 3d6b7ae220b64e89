"""The REST paths of the protos (`google.api.http`), as Envoy's routes match them."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet


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


def _bindings(files: FileDescriptorSet) -> Iterator[tuple[str, str]]:
    for file in files.file:
        for service in file.service:
            for rpc in service.method:
                rule: Any = rpc.options.Extensions[annotations_pb2.http]
                if verb := rule.WhichOneof("pattern"):
                    yield verb.upper(), getattr(rule, verb)


def _pattern(template: str) -> str:
    return "".join("[^/:]+" if part.startswith("{") else re.escape(part) for part in re.split("({[^}]+})", template))
