"""The reference model: what docs/rules.md says of money, in plain Python. It shares no code with the service.

This is what every call goes through: wrong fields, previews, idempotency keys and batches. `domain` has what the calls do.
"""

import json
import re

from tests.model.domain import Domain, number_in
from tests.model.requests import OPTIONS, Json, Outcome, Refusal, Told, refuse, wrong, wrong_fields


class Ledger(Domain):
    """Everything there is, what was answered to idempotency keys, by caller and key, and which got no answer in this call."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[tuple[str, str], tuple[str, Json, Outcome]] = {}
        self.passed: dict[tuple[str, str], bool] = {}

    def copy(self) -> "Ledger":
        other = Ledger()
        for name, table in vars(self).items():
            setattr(other, name, dict(table))
        return other

    def call(self, rpc: str, request: Json, told: Told) -> Outcome:
        """Make one call: R39, R40, R48 to R54, R96 to R98."""
        self.passed = {}
        try:
            if fields := wrong_fields(rpc, request):
                raise wrong(*fields)
            if rpc == "payments.BatchCreatePayments":
                return self._remembered(rpc, request, told, told.key)
            return self._one(rpc, request, told, told.key)
        except Refusal as refusal:
            return refusal.outcome

    def _one(self, rpc: str, request: Json, told: Told, key: str, *, shown: bool = True) -> Outcome:
        if request.get("validate_only"):
            return self._preview(rpc, request, told)
        if (token := request.get("preview_token")) and token != self._token(rpc, request, number_in(token)):
            raise refuse(3, "PREVIEW_TOKEN_INVALID")
        outcome = self._remembered(rpc, request, told, key or request.get("idempotency_key", ""))
        if outcome.content.get("reason") == "PREVIEW_STALE" and shown:
            preview = self._preview(rpc, request, told).content
            metadata = {"preview_token": preview["preview_token"]}
            return Outcome(10, outcome.content | {"metadata": metadata, "shown": preview})
        return outcome

    def _preview(self, rpc: str, request: Json, told: Told) -> Outcome:
        plain = {name: value for name, value in request.items() if name not in OPTIONS}
        code, content, _ = self.copy()._decide(rpc, plain, told)
        if code:
            return Outcome(code, content)
        owner = str(content.get("customer_external_id", content["external_id"]))
        return Outcome(0, content | {"preview_token": self._token(rpc, plain, len(self.events.get(owner, ())))})

    def _token(self, rpc: str, request: Json, number: int) -> str:
        """What stands for a preview's token: the number of the customer's last event, and the request."""
        plain = {name: value for name, value in request.items() if name not in OPTIONS}
        return f"{number} {rpc} {json.dumps(plain, sort_keys=True, default=str)}"

    def _remembered(self, rpc: str, request: Json, told: Told, key: str) -> Outcome:
        if not key or request.get("validate_only"):
            return self._decide(rpc, request, told)
        if stored := self.answers.get((told.caller, key)):
            if stored[:2] != (rpc, request):
                raise refuse(3, "IDEMPOTENCY_KEY_REUSED")
            return stored[2]._replace(replayed=True)
        if (told.caller, key) in self.passed:
            raise refuse(10, "IDEMPOTENCY_KEY_IN_FLIGHT")
        outcome = self._decide(rpc, request, told)
        if outcome.code == 10:  # R52
            self.passed[told.caller, key] = True
        else:
            self.answers[told.caller, key] = (rpc, request, outcome)
        return outcome

    def _decide(self, rpc: str, request: Json, told: Told) -> Outcome:
        method = re.sub(r"(?<!^)([A-Z])", r"_\1", rpc.split(".")[1]).lower()
        try:
            content = getattr(self, method)(request, told)
        except Refusal as refusal:
            return refusal.outcome
        changes_debt = rpc.startswith(("loans", "payments")) and method.startswith(("create", "activate", "reject"))
        return Outcome(0, content | ({"balance_after": self.balance(content["customer_external_id"])} if changes_debt else {}))

    def batch_create_payments(self, request: Json, told: Told) -> Json:
        ledger = self.copy() if request.get("validate_only") else self
        results = []
        for item in request["requests"]:
            code, content, _ = ledger._item(item, told, preview=ledger is not self)
            results.append({"status": {"code": code} | content} if code else {"payment": content})
        return {"results": results}

    def _item(self, item: Json, told: Told, *, preview: bool) -> Outcome:
        rpc = "payments.CreatePayment"
        try:
            if fields := wrong_fields(rpc, item):
                raise wrong(*(f"payment.{field}" for field in fields))
            if item.get("validate_only"):
                raise wrong("validate_only")
            number = len(self.events.get(item["payment"]["customer_external_id"], ()))
            unkeyed = {name: value for name, value in item.items() if name != "idempotency_key"}
            outcome = self._one(rpc, unkeyed if preview else item, told, "", shown=False)
            if preview and not outcome.code:
                return Outcome(0, outcome.content | {"preview_token": self._token(rpc, item, number)})
            return outcome
        except Refusal as refusal:
            return refusal.outcome
