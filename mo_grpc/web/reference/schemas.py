"""Messages as JSON Schemas (2020-12), as Envoy writes and reads their JSON."""

from collections.abc import Collection, Iterator
from typing import Any, Final

from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet
from mo.rules.v1 import rules_pb2

from mo_grpc.formats import EXTERNAL_ID_LENGTH, money_pattern, pattern_of
from mo_grpc.web.reference.examples import VALUES

Schema = dict[str, Any]
Type = FieldDescriptorProto.Type

_RULES: Final = (
    rules_pb2.external_id,
    rules_pb2.import_id,
    rules_pb2.key_id,
    rules_pb2.one_line,
    rules_pb2.no_null,
    rules_pb2.idempotency_key,
)
STATUS: Final = ".google.rpc.Status"

_KNOWN: Final[dict[str, Schema]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.FieldMask": {"type": "string", "description": "Names with commas between."},
    STATUS: {"$ref": "#/components/schemas/Error"},
}
_SCALARS: Final[dict[int, Schema]] = {
    Type.TYPE_STRING: {"type": "string"},
    Type.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    Type.TYPE_BOOL: {"type": "boolean"},
    Type.TYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    Type.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
}


class DocumentError(Exception):
    """The protos have something that the document cannot tell; the message says what to do."""


class Protos:
    """The messages and enums of a descriptor set by their full names, with their comments."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        self._comments: dict[tuple[str, tuple[int, ...]], str] = {}
        self._places: dict[str, tuple[str, tuple[int, ...]]] = {}
        for file in files.file:
            for location in file.source_code_info.location:
                self._comments[file.name, tuple(location.path)] = " ".join(location.leading_comments.split("\n "))
            for place, message in enumerate(file.message_type):
                self._add(file.name, f".{file.package}.{message.name}", message, (4, place))
            for place, enum in enumerate(file.enum_type):
                self._add_enum(file.name, f".{file.package}.{enum.name}", enum, (5, place))

    def comment(self, file: str, *path: int) -> str:
        """The comment before what is at a path (descriptor.proto, SourceCodeInfo)."""
        lines = self._comments.get((file, path), "").strip()
        return "\n".join(line.strip() for line in lines.split("\n"))

    def values(self, enum: str) -> Iterator[tuple[str, str]]:
        """The values of an enum, each with its comment."""
        file, path = self._places[enum]
        for place, value in enumerate(self._enums[enum].value):
            yield value.name, self.comment(file, *path, 2, place)

    def reference(self, name: str) -> Schema:
        """A message's schema, as others mention it."""
        return dict(_KNOWN.get(name) or {"$ref": f"#/components/schemas/{short(name)}"})

    def schema(self, name: str, leave_out: Collection[str] = (), *, partial: bool = False) -> Schema:
        """A message's schema; `partial` requires nothing and has what can be written alone."""
        file, path = self._places[name]
        message = self.messages[name]
        properties, required = {}, []
        for place, field in enumerate(message.field):
            behaviors = field.options.Extensions[field_behavior_pb2.field_behavior]
            if field.name in leave_out or (partial and field_behavior_pb2.OUTPUT_ONLY in behaviors):
                continue
            property_schema = self._field(field, short(name))
            comment = self.comment(file, *path, 2, place)
            for word in ("Required. ", "Optional. ", "Output only. "):
                comment = comment.removeprefix(word)
            property_schema["description"] = comment
            if field_behavior_pb2.OUTPUT_ONLY in behaviors:
                property_schema["readOnly"] = True
            if field_behavior_pb2.REQUIRED in behaviors and not partial:
                required.append(field.name)
            properties[field.name] = property_schema
        schema: Schema = {"type": "object", "description": self.comment(file, *path), "properties": properties}
        return schema | ({"required": required} if required else {})

    def parameter(self, name: str, field_path: str) -> Schema:
        """The schema of a field that travels in a path or a query."""
        head, _, rest = field_path.partition(".")
        [(place, field)] = [(n, f) for n, f in enumerate(self.messages[name].field) if f.name == head]
        if rest:
            return self.parameter(field.type_name, rest)
        file, path = self._places[name]
        comment = self.comment(file, *path, 2, place)
        return self._field(field, short(name)) | {"description": comment.partition(". ")[2] or comment}

    def query_names(self, field: FieldDescriptorProto) -> list[str]:
        """The parameters of a query that a field is: one, or for a message one for each of its fields."""
        if field.type != Type.TYPE_MESSAGE or field.type_name in _KNOWN:
            return [field.name]
        return [f"{field.name}.{inner.name}" for inner in self.messages[field.type_name].field]

    def example(self, name: str) -> Schema:
        """An answer with a value in every field, but of a oneof in the first alone."""
        found: Schema = {}
        oneofs: set[int] = set()
        for field in self.messages[name].field:
            if field.HasField("oneof_index") and not field.proto3_optional:
                if field.oneof_index in oneofs:
                    continue
                oneofs.add(field.oneof_index)
            if field.type == Type.TYPE_MESSAGE and field.type_name not in _KNOWN:
                value: object = self.example(field.type_name)
            else:
                value = example_value(short(name), field.name)
            repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
            found[field.name] = [value] if repeated and not isinstance(value, list) else value
        return found

    def _add(self, file: str, name: str, message: DescriptorProto, path: tuple[int, ...]) -> None:
        self.messages[name] = message
        self._places[name] = file, path
        for place, nested in enumerate(message.nested_type):
            self._add(file, f"{name}.{nested.name}", nested, (*path, 3, place))
        for place, enum in enumerate(message.enum_type):
            self._add_enum(file, f"{name}.{enum.name}", enum, (*path, 4, place))

    def _add_enum(self, file: str, name: str, enum: EnumDescriptorProto, path: tuple[int, ...]) -> None:
        self._enums[name] = enum
        self._places[name] = file, path

    def _field(self, field: FieldDescriptorProto, message: str) -> Schema:
        rules = field.options.Extensions[validate_pb2.field]
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            items = self._single(field, rules.repeated.items)
            schema: Schema = {"type": "array", "items": items}
            bounds = {"minItems": rules.repeated.min_items, "maxItems": rules.repeated.max_items}
            schema |= {name: bound for name, bound in bounds.items() if bound}
            if rules.repeated.unique:
                schema["uniqueItems"] = True
        else:
            schema = self._single(field, rules)
        if "$ref" not in schema and field.type != Type.TYPE_MESSAGE:
            schema["examples"] = [example_value(message, field.name)]
        return schema

    def _single(self, field: FieldDescriptorProto, rules: validate_pb2.FieldRules) -> Schema:
        if field.type == Type.TYPE_MESSAGE:
            return self.reference(field.type_name)
        if field.type == Type.TYPE_ENUM:
            return {"type": "string", "enum": [name for name, _ in self.values(field.type_name)]}
        if field.type not in _SCALARS:
            kind = Type.Name(field.type)
            raise DocumentError(
                f"The field {field.name} is of {kind}: say in mo_grpc/web/reference/schemas.py what that is in JSON"
            )
        schema = dict(_SCALARS[field.type])
        if field.type == Type.TYPE_STRING:
            schema |= _string_rules(rules.string)
        if rules.int32.HasField("gte"):
            schema["minimum"] = rules.int32.gte
        if rules.int64.HasField("gte") and rules.int64.gte == 0:
            schema["pattern"] = "^[0-9]+$"
        if rules.int32.HasField("lte"):
            schema["maximum"] = rules.int32.lte
        return schema


def short(name: str) -> str:
    """A message's name without its package, which is unique among ours."""
    return ".".join(part for part in name.split(".") if part[:1].isupper())


def example_value(message: str, field: str) -> object:
    """An example of a field."""
    return VALUES.get(f"{message.rpartition('.')[2]}.{field}", VALUES.get(field))


def _string_rules(rules: validate_pb2.StringRules) -> Schema:
    found: Schema = {}
    if rules.HasField("min_len"):
        found["minLength"] = rules.min_len
    if rules.HasField("max_len"):
        found["maxLength"] = rules.max_len
    if rules.Extensions[rules_pb2.external_id]:
        found |= {"minLength": 1, "maxLength": EXTERNAL_ID_LENGTH}
    for rule in _RULES:
        if rules.Extensions[rule]:
            found["pattern"] = pattern_of(rule)
    if digits := rules.Extensions[rules_pb2.money_digits]:
        found["pattern"] = money_pattern(digits)
    return found
