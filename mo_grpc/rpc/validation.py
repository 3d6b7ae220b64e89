"""Checks messages against the rules of their protos, and names all that is wrong at once."""

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from mo_grpc.errors import FieldViolation, InvalidFields

_VALIDATOR = Validator()


def validate(message: Message, *, strip: str = "", prefix: str = "") -> None:
    """Check one message.

    Fields are named as the REST caller sent them: without `strip`, the field that the HTTP body stands for, and with
    `prefix`, for a message inside another.

    Raises:
        InvalidFields: with one violation a field.
    """
    found: dict[str, str] = {}
    for violation in _VALIDATOR.collect_violations(message):
        found.setdefault(prefix + _field(violation).removeprefix(f"{strip}."), violation.proto.message)
    if found:
        raise InvalidFields(FieldViolation(*item) for item in found.items())


def _field(violation: Violation) -> str:
    """The path of a wrong field.

    A rule named `x.required` stands on the message that ought to have the field `x`: that is how the protos say what a
    Create request needs of its resource.
    """
    proto = violation.proto
    path = ""
    for element in proto.field.elements if proto.field else ():
        path += f".{element.field_name}"
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    if proto.rule_id.endswith(".required"):
        path += "." + proto.rule_id.removesuffix(".required")
    return path.removeprefix(".")
