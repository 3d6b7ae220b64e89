"""The rules of docs/rules.md about customers, loans, payments and the journal, one step after the other, without SQL.

A row is the answer that shows it, with times as `datetime`. Rows are replaced, never changed, so that a copy costs little.
"""

from decimal import Decimal
from typing import Any

from tests.model.requests import Json, Refusal, Told, is_id, is_money, named, refuse, wrong

UNSPECIFIED = "STATUS_UNSPECIFIED"


def cents(amount: Decimal) -> str:
    return f"{amount:.2f}"


class Domain:
    """Everything there is. The tables are by `external_id`, in the order of creation."""

    def __init__(self) -> None:
        self.customers: dict[str, Json] = {}
        self.loans: dict[str, Json] = {}
        self.payments: dict[str, Json] = {}
        self.explanations: dict[str, Json] = {}
        self.events: dict[str, tuple[Json, ...]] = {}

    # Customers

    def create_customer(self, request: Json, told: Told) -> Json:
        sent = request["customer"]
        if sent["external_id"] in self.customers:
            raise refuse(6, "CUSTOMER_ALREADY_EXISTS", external_id=sent["external_id"])
        values = {"external_id": sent["external_id"], "status": "ACTIVE", "score": cents(Decimal(sent["score"]))}
        times = {"preapproved_at": sent.get("preapproved_at"), "created_at": told.now, "updated_at": told.now}
        row = self.customers[sent["external_id"]] = values | times | {"etag": '"1"'}
        self._record(row["external_id"], "CUSTOMER_CREATED", told)
        return row

    def update_customer(self, request: Json, told: Told) -> Json:
        sent = request["customer"]
        before = self._find("customer", sent["external_id"])
        if sent.get("etag", before["etag"]) != before["etag"]:
            raise refuse(10, "STALE_ETAG", external_id=sent["external_id"], etag=before["etag"])
        self._heed_preview(before["external_id"], request)
        changes = {name: sent.get(name) for name in named(request)}
        if "score" in changes:
            changes["score"] = cents(Decimal(changes["score"]))
        version = int(before["etag"].strip('"')) + 1
        row = self.customers[sent["external_id"]] = before | changes | {"updated_at": told.now, "etag": f'"{version}"'}
        self._record(row["external_id"], "CUSTOMER_CHANGED", told, before=before)
        return row

    def get_customer(self, request: Json, _: Told) -> Json:
        return self._find("customer", request["external_id"])

    def get_customer_balance(self, request: Json, _: Told) -> Json:
        return self.balance(self._find("customer", request["external_id"])["external_id"])

    def list_customers(self, _: Json, __: Told) -> Json:
        return {"customers": [*reversed(self.customers.values())]}

    def upload(self, lines: list[str], told: Told) -> Json:
        """Import a file without a header: R62 to R65. Its customers are created in the order of their ids: R57."""
        new: dict[str, str] = {}
        failed = []
        for number, line in enumerate(lines, 1):
            external_id, _, score = line.partition(",")
            if is_id(external_id) and is_money(score) and external_id not in {*self.customers, *new}:
                new[external_id] = score
            else:
                failed.append(number)
        for external_id in sorted(new):
            self.create_customer({"customer": {"external_id": external_id, "score": new[external_id]}}, told)
        return {"created_count": len(new), "failed": failed}

    # Loans

    def create_loan(self, request: Json, told: Told) -> Json:
        sent = request["loan"]
        customer = self._find("customer", sent["customer_external_id"])
        owner, amount = customer["external_id"], Decimal(sent["amount"])
        if sent["external_id"] in self.loans:
            raise refuse(6, "LOAN_ALREADY_EXISTS", external_id=sent["external_id"])
        if sent["maximum_payment_date"] <= told.now:
            raise wrong("maximum_payment_date")
        self._require_active(customer)
        if amount > self._available(owner):
            raise self._over_the_line(owner, amount)
        self._heed_preview(owner, request)
        values = {"external_id": sent["external_id"], "customer_external_id": owner, "status": "PENDING"}
        amounts = {"amount": cents(amount), "outstanding": cents(amount), "contract_version": sent.get("contract_version")}
        times = {"taken_at": None, "created_at": told.now, "updated_at": told.now}
        due = {"maximum_payment_date": sent["maximum_payment_date"]}
        row = self.loans[sent["external_id"]] = values | amounts | times | due
        change = loan_change(row | {"status": UNSPECIFIED, "outstanding": "0.00"}, row)
        self._record(owner, "LOAN_CREATED", told, cents(amount), [change])
        return row

    def activate_loan(self, request: Json, told: Told) -> Json:
        loan = self._pending(request["external_id"])
        owner = loan["customer_external_id"]
        self._require_active(self.customers[owner])
        if self._available(owner) < 0:
            raise self._over_the_line(owner, Decimal(loan["amount"]))
        return self._move(loan, request, told, "LOAN_ACTIVATED", status="ACTIVE", taken_at=told.now)

    def reject_loan(self, request: Json, told: Told) -> Json:
        return self._move(self._pending(request["external_id"]), request, told, "LOAN_REJECTED", status="REJECTED")

    def get_loan(self, request: Json, _: Told) -> Json:
        return self._find("loan", request["external_id"])

    def list_loans(self, request: Json, _: Told) -> Json:
        return {"loans": filtered(self.loans, request)}

    # Payments

    def create_payment(self, request: Json, told: Told) -> Json:
        sent = request["payment"]
        owner, total = self._find("customer", sent["customer_external_id"])["external_id"], Decimal(sent["total_amount"])
        if sent["external_id"] in self.payments:
            raise refuse(6, "PAYMENT_ALREADY_EXISTS", external_id=sent["external_id"])
        self._heed_preview(owner, request)
        active = sorted(
            (loan for loan in self.loans.values() if (loan["customer_external_id"], loan["status"]) == (owner, "ACTIVE")),
            key=lambda loan: loan["taken_at"],  # R29: sorting keeps the order of creation among equals
        )
        owed = sum((Decimal(loan["outstanding"]) for loan in active), Decimal(0))
        completed, rest = total <= owed, total if total <= owed else Decimal(0)
        considered, changes, details = [], [], []
        for loan in active:
            before = Decimal(loan["outstanding"])
            part = min(rest, before)
            rest -= part
            left = {"outstanding": cents(before - part), "status": "PAID" if part == before else "ACTIVE"}
            got = "PAID_IN_FULL" if part == before else "GOT_THE_REST" if part else "NOTHING_LEFT"
            about = {"loan_external_id": loan["external_id"], "outstanding_before": cents(before), "amount": cents(part)}
            about |= {"taken_at": loan["taken_at"], "outstanding_after": left["outstanding"]}
            considered.append(about | {"outcome": got if completed else "PAYMENT_REFUSED"})
            if part:
                row = self.loans[loan["external_id"]] = loan | left | {"updated_at": told.now}
                changes.append(loan_change(loan, row))
                details.append({"loan_external_id": loan["external_id"], "amount": cents(part)})
        status = "COMPLETED" if completed else "REJECTED"
        rejection = None if completed else {"kind": "INSUFFICIENT_DEBT"}
        values = {"external_id": sent["external_id"], "customer_external_id": owner, "total_amount": cents(total)}
        times = {"paid_at": told.now if completed else None, "rejected_at": None if completed else told.now}
        times |= {"created_at": told.now, "updated_at": told.now}
        row = self.payments[sent["external_id"]] = (
            values | times | {"status": status, "payment_details": details, "rejection": rejection}
        )
        why = {"decided_at": told.now, "decision": status, "active_debt": cents(owed), "considered_loans": considered}
        self.explanations[sent["external_id"]] = values | why | {"bounce": None}
        kind = "PAYMENT_COMPLETED" if completed else "PAYMENT_REFUSED"
        self._record(owner, kind, told, cents(total), changes, sent["external_id"])
        for change, detail in zip(changes, details, strict=True):
            if change["status_after"] == "PAID":
                still = change | {"status_before": "PAID", "outstanding_before": "0.00"}
                self._record(owner, "LOAN_PAID", told, detail["amount"], [still], sent["external_id"])
        return row

    def reject_payment(self, request: Json, told: Told) -> Json:
        payment = self._find("payment", request["external_id"])
        if payment["status"] != "COMPLETED":
            raise refuse(9, "PAYMENT_WRONG_STATUS", external_id=payment["external_id"], status=payment["status"])
        owner = payment["customer_external_id"]
        self._heed_preview(owner, request)
        changes, restored = [], []
        for detail in payment["payment_details"]:
            loan = self.loans[detail["loan_external_id"]]
            more = cents(Decimal(loan["outstanding"]) + Decimal(detail["amount"]))
            row = self.loans[loan["external_id"]] = loan | {"outstanding": more, "status": "ACTIVE", "updated_at": told.now}
            changes.append(loan_change(loan, row))
            restored.append(detail | {"outstanding_before": loan["outstanding"], "outstanding_after": more})
        bounced = {"status": "REJECTED", "rejected_at": told.now, "updated_at": told.now}
        rejection = {"rejection": {"kind": "BOUNCED", "reason": request["reason"]}}
        self.payments[payment["external_id"]] = payment | bounced | rejection
        bounce = {"bounced_at": told.now, "reason": request["reason"], "restored_loans": restored}
        self.explanations[payment["external_id"]] = self.explanations[payment["external_id"]] | {"bounce": bounce}
        self._record(owner, "PAYMENT_BOUNCED", told, payment["total_amount"], changes, payment["external_id"])
        return self.payments[payment["external_id"]]

    def get_payment(self, request: Json, _: Told) -> Json:
        return self._find("payment", request["external_id"])

    def list_payments(self, request: Json, _: Told) -> Json:
        return {"payments": filtered(self.payments, request)}

    def explain_payment(self, request: Json, _: Told) -> Json:
        return self.explanations[self._find("payment", request["external_id"])["external_id"]]

    def list_events(self, request: Json, _: Told) -> Json:
        return {"events": [*self.events.get(request["customer_external_id"], ())]}

    # What all have in common

    def _find(self, kind: str, external_id: str) -> Json:
        rows: dict[str, Json] = getattr(self, f"{kind}s")
        if external_id not in rows:
            raise refuse(5, f"{kind.upper()}_NOT_FOUND", external_id=external_id)
        return rows[external_id]

    def _pending(self, external_id: str) -> Json:
        loan = self._find("loan", external_id)
        if loan["status"] != "PENDING":
            raise refuse(9, "LOAN_WRONG_STATUS", external_id=external_id, status=loan["status"])
        return loan

    def _require_active(self, customer: Json) -> None:
        if customer["status"] != "ACTIVE":
            raise refuse(9, "CUSTOMER_INACTIVE", customer_external_id=customer["external_id"])

    def _over_the_line(self, owner: str, amount: Decimal) -> Refusal:
        amounts = {"amount": cents(amount), "available_amount": cents(self._available(owner))}
        return refuse(9, "CREDIT_LIMIT_EXCEEDED", customer_external_id=owner, **amounts)

    def _heed_preview(self, owner: str, request: Json) -> None:
        token = request.get("preview_token")
        if token and number_in(token) != len(self.events[owner]):
            raise refuse(10, "PREVIEW_STALE", preview_token="")

    def _move(self, loan: Json, request: Json, told: Told, kind: str, **changes: Any) -> Json:
        owner = loan["customer_external_id"]
        self._heed_preview(owner, request)
        row = self.loans[loan["external_id"]] = loan | changes | {"updated_at": told.now}
        self._record(owner, kind, told, loan["amount"], [loan_change(loan, row)])
        return row

    def debt(self, owner: str) -> Decimal:
        open_loans = (loan for loan in self.loans.values() if loan["status"] in ("PENDING", "ACTIVE"))
        return sum((Decimal(loan["outstanding"]) for loan in open_loans if loan["customer_external_id"] == owner), Decimal(0))

    def _available(self, owner: str) -> Decimal:
        return Decimal(self.customers[owner]["score"]) - self.debt(owner)

    def balance(self, owner: str) -> Json:
        score, debt = Decimal(self.customers[owner]["score"]), self.debt(owner)
        return {"external_id": owner, "score": cents(score), "total_debt": cents(debt), "available_amount": cents(score - debt)}

    def _record(
        self,
        owner: str,
        kind: str,
        told: Told,
        amount: str = "",
        loans: list[Json] | tuple[()] = (),
        payment: str = "",
        before: Json | None = None,
    ) -> None:
        """Add an event, which begins with the balance that the one before left: R79, R80."""
        events, customer = self.events.get(owner, ()), self.customers[owner]
        of_customer = kind.startswith("CUSTOMER")
        event = {"customer_external_id": owner, "number": len(events) + 1, "kind": kind, "recorded_at": told.now}
        event |= {"payment_external_id": payment, "amount": amount, "loans": [*loans], "backfilled": False}
        event |= {"status_before": before["status"] if before else UNSPECIFIED}
        event |= {"status_after": customer["status"] if of_customer else UNSPECIFIED}
        event |= {"preapproved_at": customer["preapproved_at"] if of_customer else None}
        event |= {"balance_before": events[-1]["balance_after"] if events else None, "balance_after": self.balance(owner)}
        self.events[owner] = (*events, event)


def number_in(token: str) -> int:
    """The number of the event that a preview was made after; -1 if the token is damaged."""
    return int(number) if (number := token.partition(" ")[0]).isdigit() else -1


def loan_change(before: Json, after: Json) -> Json:
    states = {
        f"{name}_{when}": row[name]
        for name in ("status", "outstanding")
        for when, row in (("before", before), ("after", after))
    }
    return {"external_id": after["external_id"]} | states


def filtered(rows: dict[str, Json], request: Json) -> list[Json]:
    """The rows that a list's filters let pass, the newest first: R8."""
    asked = {name: request[name] for name in ("customer_external_id", "status") if request.get(name)}
    paid = request.get("loan_external_id")
    return [
        row
        for row in reversed(rows.values())
        if all(row[name] == value for name, value in asked.items())
        and (not paid or paid in [detail["loan_external_id"] for detail in row["payment_details"]])
    ]
