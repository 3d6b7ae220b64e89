"""The formats of ids and amounts, for code outside of messages: SQL, pages, the OpenAPI document.

They are read from the rules in `protos/mo/rules/v1/rules.proto`, where alone they are written.
"""

import re
from typing import Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from mo.rules.v1 import rules_pb2

_PATTERN: Final = re.compile(r"this\.matches\(r?'([^']*)'\)")
_MAX_LENGTH: Final = re.compile(r"this\.size\(\) <= ([0-9]+)")


def pattern_of(rule: FieldDescriptor) -> str:
    """The regular expression that a rule for texts demands; it is anchored, and means the same to PostgreSQL and JavaScript."""
    return _read(_PATTERN, rule)


def money_digits(message: type[Message], field: str) -> int:
    """How many digits the amount in a field may have before its point."""
    digits: int = field_rules(message, field).string.Extensions[rules_pb2.money_digits]
    return digits


def field_rules(message: type[Message], field: str) -> validate_pb2.FieldRules:
    """The rules of a field, as its proto says them."""
    rules: validate_pb2.FieldRules = message.DESCRIPTOR.fields_by_name[field].GetOptions().Extensions[validate_pb2.field]
    return rules


def money_pattern(digits: int) -> str:
    """The regular expression of an amount with so many digits before its point at most."""
    return AMOUNT.replace("[0-9]*", f"[0-9]{{0,{digits - 1}}}", 1)


def is_external_id(text: str) -> bool:
    """Whether a client may have given this id."""
    return len(text) <= EXTERNAL_ID_LENGTH and re.fullmatch(EXTERNAL_ID, text) is not None


def is_key_id(text: str) -> bool:
    """Whether an API key may have this id."""
    return re.fullmatch(_KEY_ID, text) is not None


def _expression(rule: FieldDescriptor) -> validate_pb2.Rule:
    return rule.GetOptions().Extensions[validate_pb2.predefined].cel[0]


def _read(wanted: re.Pattern[str], rule: FieldDescriptor) -> str:
    found = wanted.search(_expression(rule).expression)
    if found is None:
        raise LookupError(f"the rule {rule.full_name} does not say {wanted.pattern}")
    return found[1]


EXTERNAL_ID: Final = pattern_of(rules_pb2.external_id)
"""The regular expression of an id that a client chose; the length is limited separately."""

EXTERNAL_ID_LENGTH: Final = int(_read(_MAX_LENGTH, rules_pb2.external_id))

EXTERNAL_ID_RULE: Final = _expression(rules_pb2.external_id).message
"""The same in words; it follows the name of the field."""

AMOUNT: Final = pattern_of(rules_pb2.money_digits)
"""The regular expression of an amount of any number of digits."""

_KEY_ID: Final = pattern_of(rules_pb2.key_id)
