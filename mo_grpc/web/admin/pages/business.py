"""Customers, loans and payments: lists, pages, and the actions of operators."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from mo.customers.v1 import customers_pb2
from mo.loans.v1 import loans_pb2
from mo.payments.v1 import payments_pb2
from starlette.responses import Response

from mo_grpc.customers.rules import Status as CustomerStatus
from mo_grpc.errors import JournalInconsistent
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.explanations import explain
from mo_grpc.payments.rules import RejectionKind
from mo_grpc.payments.rules import Status as PaymentStatus
from mo_grpc.web.admin.charts import customer as charts
from mo_grpc.web.admin.charts.plots import twice
from mo_grpc.web.admin.context import NotHereError, RequestContext
from mo_grpc.web.admin.filters import choices, money, words
from mo_grpc.web.admin.pages.finding import find_one, id_of
from mo_grpc.web.admin.pages.listing import Export, ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import CUSTOMERS, LOANS, PAYMENTS
from mo_grpc.web.admin.rules import chosen, used, whole_number
from mo_grpc.web.admin.site import Site

_DETAILS_IN_LIST = 10
_DONE = {"activate": "activated", "reject": "rejected"}
"""What can be done with a loan, and its word for what was done."""


class BusinessPages:
    """The pages of the business."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._database = site.database
        self.customers = ListPage(
            site,
            CUSTOMERS,
            "customers.html",
            {"status": choices(CustomerStatus)},
            Export("customers", ("external_id", "status", "score", "preapproved_at", "created_at", "updated_at")),
        )
        self.loans = ListPage(
            site,
            LOANS,
            "loans.html",
            {"status": choices(LoanStatus)},
            Export(
                "loans",
                (
                    "external_id",
                    "customer",
                    "amount",
                    "outstanding",
                    "status",
                    "taken_at",
                    "maximum_payment_date",
                    "created_at",
                ),
            ),
        )
        self.payments = ListPage(
            site,
            PAYMENTS,
            "payments.html",
            {"status": choices(PaymentStatus), "rejection_kind": choices(RejectionKind)},
            Export(
                "payments",
                (
                    "external_id",
                    "customer",
                    "total_amount",
                    "status",
                    "paid_at",
                    "rejection_kind",
                    "rejection_reason",
                    "created_at",
                ),
            ),
            self._with_details,
        )

    async def _with_details(self, rows: list[dict[str, Any]]) -> None:
        """Put some details of each payment into its row."""
        found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        ids = [row["id"] for row in rows]
        for detail in await self._database.read(lambda c: resources.details_of_payments(c, ids, _DETAILS_IN_LIST + 1)):
            found[detail["payment_id"]].append(detail)
        for row in rows:
            row["details"] = found[row["id"]][:_DETAILS_IN_LIST]
            row["more"] = len(found[row["id"]]) > _DETAILS_IN_LIST

    async def customer(self, context: RequestContext) -> Response:
        """One customer, with everything in charts."""
        found = await self._one(context, resources.find_customer, "customer")
        loans = await self._database.read(lambda c: resources.latest_loans(c, found["id"]))
        payments = await self._database.read(lambda c: resources.latest_payments(c, found["id"]))
        spread_over = sorted((loan for loan in loans if loan["taken_at"]), key=lambda loan: (loan["taken_at"], loan["id"]))
        parts = await self._database.read(lambda c: resources.parts_of_loans(c, [loan["id"] for loan in spread_over]))
        over = max(Decimal(0), -found["available"])
        before = whole_number(context.request.query_params.get("before", ""))
        events: resources.Rows = []
        if context.person.may("events:read"):
            events = await self._database.read(lambda c: resources.latest_events(c, found["id"], before))
        return self._site.render.page(
            context,
            "customer.html",
            customer=found,
            loans=loans,
            payments=payments,
            over=over,
            used=used(found["total"], found["score"]),
            line_chart=charts.credit_line(found),
            time_line=twice(partial(charts.time_line, loans=loans, payments=payments)) if loans or payments else "",
            spread=twice(partial(charts.spread, loans=spread_over, parts=parts)) if spread_over else "",
            legend=charts.legend(parts),
            most=resources.MAX_SHOWN,
            events=events[: resources.EVENTS_SHOWN],
            older=len(events) > resources.EVENTS_SHOWN,
            newest=before is None,
        )

    async def change_customer(self, context: RequestContext) -> Response:
        """Change a customer's line or status, unless they have changed since the page was loaded."""
        external_id = id_of(context)
        customer = customers_pb2.Customer(
            external_id=external_id,
            score=context.form.get("score", "").strip(),
            status=customers_pb2.Customer.Status.ValueType(chosen(context.form.get("status", ""), CustomerStatus) or 0),
            etag=context.form.get("etag", ""),
        )
        request = customers_pb2.UpdateCustomerRequest(customer=customer)
        request.update_mask.paths.extend(["score", "status"])
        rpc = self._site.client.customers.UpdateCustomer
        return await self._site.call_rpc(context, rpc, request, done="Saved.", to=f"customers/{external_id}")

    async def loan(self, context: RequestContext) -> Response:
        """One loan, and what was paid of it."""
        found = await self._one(context, resources.find_loan, "loan")
        parts = await self._database.read(lambda c: resources.parts_of_loans(c, [found["id"]]))
        picture = twice(partial(charts.spread, loans=[found], parts=parts)) if found["taken_at"] else ""
        return self._site.render.page(context, "loan.html", loan=found, parts_of=parts, spread=picture)

    async def confirm_loan(self, context: RequestContext) -> Response:
        """Ask once more before a loan is activated or rejected."""
        verb = self._verb(context)
        found = await self._one(context, resources.find_loan, "loan")
        if found["status"] != LoanStatus.PENDING:
            reason = f"Only a pending loan can be {_DONE[verb]}; this one is {words(LoanStatus(found['status']))}."
            return self._site.refuse(context, reason, f"loans/{found['external_id']}")
        amount, customer = f"{money(found['amount'])}", found["customer"]
        text = f"The {amount} of {customer} will be free again. A rejected loan stays rejected."
        if verb == "activate":
            text = f"{amount} will be owed by {customer} from now on."
        return self._site.render.confirm(
            context,
            title=f"{verb.capitalize()} loan {found['external_id']}",
            text=text,
            button=verb.capitalize(),
            back=f"loans/{found['external_id']}",
            danger=verb != "activate",
        )

    async def change_loan(self, context: RequestContext) -> Response:
        """Activate or reject a loan."""
        external_id, verb = id_of(context), self._verb(context)
        to = f"loans/{external_id}"
        if verb == "activate":
            request = loans_pb2.ActivateLoanRequest(external_id=external_id)
            done = f"Loan {external_id} is active."
            return await self._site.call_rpc(context, self._site.client.loans.ActivateLoan, request, done=done, to=to)
        refuse = loans_pb2.RejectLoanRequest(external_id=external_id)
        done = f"Loan {external_id} is rejected."
        return await self._site.call_rpc(context, self._site.client.loans.RejectLoan, refuse, done=done, to=to)

    async def payment(self, context: RequestContext) -> Response:
        """One payment, and how it was spread."""
        found = await self._one(context, resources.find_payment, "payment")
        loans = await self._database.read(lambda c: resources.loans_of_payment(c, found["id"]))
        parts = await self._database.read(lambda c: resources.parts_of_loans(c, [loan["id"] for loan in loans]))
        mine = {part["loan_id"]: part["amount"] for part in parts if part["payment_id"] == found["id"]}
        draw = partial(charts.spread, loans=loans, parts=parts, payment_id=found["id"])
        explanation = fault = None
        try:
            explanation = await self._database.write(lambda c: explain(c, found["external_id"]))
        except JournalInconsistent as error:
            fault = error.message
        return self._site.render.page(
            context,
            "payment.html",
            payment=found,
            loans=loans,
            mine=mine,
            spread=twice(draw) if loans else "",
            explanation=explanation,
            fault=fault,
            most=resources.MAX_SHOWN,
        )

    async def confirm_rejection(self, context: RequestContext) -> Response:
        """Ask once more, and for the reason, before a payment is rejected."""
        found = await self._one(context, resources.find_payment, "payment")
        if found["status"] != PaymentStatus.COMPLETED:
            return self._site.refuse(context, "The payment is rejected already.", f"payments/{found['external_id']}")
        return self._site.render.confirm(
            context,
            "confirm_payment.html",
            title=f"Reject payment {found['external_id']}",
            text=f"Its {money(found['total_amount'])} will be owed again by {found['customer']}. This cannot be undone.",
            button="Reject",
            back=f"payments/{found['external_id']}",
        )

    async def reject_payment(self, context: RequestContext) -> Response:
        """Reject a payment that bounced."""
        external_id = id_of(context)
        request = payments_pb2.RejectPaymentRequest(external_id=external_id, reason=context.form.get("reason", "").strip())
        rpc = self._site.client.payments.RejectPayment
        done = f"Payment {external_id} is rejected; its loans are owed again."
        return await self._site.call_rpc(context, rpc, request, done=done, to=f"payments/{external_id}")

    async def _one(self, context: RequestContext, find: Any, kind: str) -> Mapping[str, Any]:
        return await find_one(self._database, context, find, kind)

    def _verb(self, context: RequestContext) -> str:
        verb = str(context.request.path_params["verb"])
        if verb not in _DONE:
            raise NotHereError("There is no such page.")
        return verb
