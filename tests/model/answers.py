"""What the service answers, in the form of the model's outcomes."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tests.doors import Door, Json, Refused
from tests.model.requests import Outcome

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")
_NOT_MODELLED = ("position", "hash", "actor", "request_id")


def call(door: Door, rpc: str, request: Json) -> Outcome:
    """Make a call; the request's times are `datetime`."""
    try:
        return Outcome(0, plain(door(rpc, **wire(request))), door.replayed)
    except Refused as refused:
        return Outcome(refused.code, refusal(refused), door.replayed)


def refusal(refused: Refused) -> Json:
    """What a client reads of a refusal: the reason, its metadata, the wrong fields, and what would happen now."""
    if not refused.details:
        return {"reason": refused.message}  # the client's own, such as a deadline
    content = {"reason": refused.reason, "metadata": refused.info["metadata"]}
    if refused.reason == "INVALID_FIELDS":
        content["fields"] = sorted(re.sub(r"^requests\[[0-9]+\]\.", "", field) for field in refused.fields)
    for detail in refused.details:
        if "/mo." in detail["@type"]:
            content["shown"] = plain({name: value for name, value in detail.items() if name != "@type"})
    return content


def wire(value: Any) -> Any:
    """A request with its times as JSON has them."""
    if isinstance(value, dict):
        return {name: wire(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [wire(item) for item in value]
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def plain(value: Any, *, name: str = "") -> Any:
    """An answer without what the model does not have, and with its times as `datetime`; what is absent is left out."""
    if isinstance(value, dict):
        if {"code", "details"} <= value.keys():
            status = Refused(value["code"], value["message"], value["details"])
            return {"code": status.code} | refusal(status)
        if value.get("kind") == "INSUFFICIENT_DEBT":
            return {"kind": value["kind"]}  # the words of the reason are for people
        kept = {key: plain(item, name=key) for key, item in value.items() if item is not None and key not in _NOT_MODELLED}
        return kept | ({"number": int(kept["number"])} if "number" in kept else {})
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return datetime.fromisoformat(value)
    return value


class Tokens:
    """Which of the service's preview tokens stands for which of the model's."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def sent(self, request: Json) -> Json:
        """A request of the model's, as it is sent to the service."""
        changed: Json = {name: self._known.get(value, value) for name, value in request.items() if name == "preview_token"}
        if "requests" in request:
            changed["requests"] = [self.sent(item) for item in request["requests"]]
        return request | changed

    def learn(self, expected: Any, actual: Any) -> Any:
        """What is expected, with the service's tokens for the model's: those that are known, or those that it shows now."""
        if isinstance(expected, dict) and isinstance(actual, dict):
            return {key: self._token(item, actual.get(key)) if key == "preview_token" else self.learn(item, actual.get(key))
                    for key, item in expected.items() if item is not None}  # fmt: skip
        if isinstance(expected, list):
            others = actual if isinstance(actual, list) and len(actual) == len(expected) else [None] * len(expected)
            return [self.learn(*pair) for pair in zip(expected, others, strict=True)]
        return expected

    def _token(self, model: str, service: str | None) -> str | None:
        if model and service and model not in self._known and service not in self._known.values():
            self._known[model] = service
        return self._known.get(model, "" if not model else None)


def differences(expected: Any, actual: Any, at: str = "") -> Iterator[str]:
    """Where two answers differ, a line for each place."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted(expected.keys() | actual.keys()):
            yield from differences(expected.get(key), actual.get(key), f"{at}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for place, pair in enumerate(zip(expected, actual, strict=True)):
            yield from differences(*pair, f"{at}[{place}]")
    elif expected != actual:
        yield f"{at or 'all'}: {expected} is expected, and {actual} was answered"


def label(outcome: Outcome, request: Json) -> str:
    """The kind of an outcome, for the statistics."""
    code, content, replayed = outcome
    kind = content["reason"] if code else "ok"
    if not code and "decision" not in content and "total_amount" in content and "payment_details" in content:
        kind = content["status"]
    return ("replayed " if replayed else "preview " if request.get("validate_only") and not code else "") + str(kind)
