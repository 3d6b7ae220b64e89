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
from mo_grpc.formats import is_external_id
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.rules import RejectionKind
from mo_grpc.payments.rules import Status as PaymentStatus
from mo_grpc.web.admin import charts, pictures
from mo_grpc.web.admin.pages.listing import Export, ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import CUSTOMERS, LOANS, PAYMENTS
from mo_grpc.web.admin.rules import chosen, used, words_of
from mo_grpc.web.admin.site import NotHereError, Site, Visit

CUSTOMER_STATUS, LOAN_STATUS, PAYMENT_STATUS, REJECTION = (
    words_of(each) for each in (CustomerStatus, LoanStatus, PaymentStatus, RejectionKind)
)
_DETAILS_IN_LIST = 10


class BusinessPages:
    """The pages of the business."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._database = site.database
        self.customers = ListPage(
            site,
            CUSTOMERS,
            "customers.html",
            {"status": CUSTOMER_STATUS},
            Export("customers", ("external_id", "status", "score", "preapproved_at", "created_at", "updated_at")),
        )
        self.loans = ListPage(
            site,
            LOANS,
            "loans.html",
            {"status": LOAN_STATUS},
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
            {"status": PAYMENT_STATUS, "rejection_kind": REJECTION},
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

    async def customer(self, visit: Visit) -> Response:
        """One customer, with everything in pictures."""
        found = await self._one(visit, resources.find_customer, "customer")
        loans = await self._database.read(lambda c: resources.latest_loans(c, found["id"]))
        payments = await self._database.read(lambda c: resources.latest_payments(c, found["id"]))
        spread_over = sorted((loan for loan in loans if loan["taken_at"]), key=lambda loan: (loan["taken_at"], loan["id"]))
        parts = await self._database.read(lambda c: resources.parts_of_loans(c, [loan["id"] for loan in spread_over]))
        over = max(Decimal(0), -found["available"])
        description = (
            f"Of a line of {found['score']:,.2f}, {found['active']:,.2f} is owed, {found['pending']:,.2f} is pending, "
            f"and {found['available']:,.2f} is available."
        )
        shown = [("part-1", found["active"]), ("part-3", found["pending"]), ("part-free", max(Decimal(0), found["available"]))]
        return self._site.render(
            visit,
            "customer.html",
            customer=found,
            loans=loans,
            payments=payments,
            over=over,
            used=used(found["total"], found["score"]),
            line_chart=charts.share("Credit line", description, shown),
            time_line=charts.twice(partial(pictures.time_line, loans=loans, payments=payments)) if loans or payments else "",
            spread=charts.twice(partial(pictures.spread, loans=spread_over, parts=parts)) if spread_over else "",
            legend=pictures.legend(parts),
            loan_status=LOAN_STATUS,
            payment_status=PAYMENT_STATUS,
            customer_status=CUSTOMER_STATUS,
            most=resources.MAX_SHOWN,
        )

    async def change_customer(self, visit: Visit) -> Response:
        """Change a customer's line or status, unless somebody else did since the page was read."""
        external_id = self._id(visit)
        inactive = chosen(visit.form.get("status", ""), CUSTOMER_STATUS) == CustomerStatus.INACTIVE
        customer = customers_pb2.Customer(
            external_id=external_id,
            score=visit.form.get("score", "").strip(),
            status=customers_pb2.Customer.INACTIVE if inactive else customers_pb2.Customer.ACTIVE,
            etag=visit.form.get("etag", ""),
        )
        request = customers_pb2.UpdateCustomerRequest(customer=customer)
        request.update_mask.paths.extend(["score", "status"])
        rpc = self._site.api.customers.UpdateCustomer
        return await self._site.act(visit, rpc, request, done="Saved.", to=f"customers/{external_id}")

    async def loan(self, visit: Visit) -> Response:
        """One loan, and what was paid of it."""
        found = await self._one(visit, resources.find_loan, "loan")
        parts = await self._database.read(lambda c: resources.parts_of_loans(c, [found["id"]]))
        picture = charts.twice(partial(pictures.spread, loans=[found], parts=parts)) if found["taken_at"] else ""
        words = LOAN_STATUS[found["status"]]
        return self._site.render(visit, "loan.html", loan=found, parts_of=parts, spread=picture, words=words)

    async def confirm_loan(self, visit: Visit) -> Response:
        """Ask once more before a loan is activated or rejected."""
        verb = self._verb(visit)
        found = await self._one(visit, resources.find_loan, "loan")
        amount, customer = f"{found['amount']:,.2f}", found["customer"]
        text = f"The {amount} of {customer} will be free again. A rejected loan stays rejected."
        if verb == "activate":
            text = f"{amount} will be owed by {customer} from now on."
        return self._site.ask(
            visit,
            title=f"{verb.capitalize()} loan {found['external_id']}",
            text=text,
            button=verb.capitalize(),
            back=f"loans/{found['external_id']}",
            danger=verb != "activate",
        )

    async def change_loan(self, visit: Visit) -> Response:
        """Activate or reject a loan."""
        external_id, verb = self._id(visit), self._verb(visit)
        to = f"loans/{external_id}"
        if verb == "activate":
            request = loans_pb2.ActivateLoanRequest(external_id=external_id)
            done = f"Loan {external_id} is active."
            return await self._site.act(visit, self._site.api.loans.ActivateLoan, request, done=done, to=to)
        refuse = loans_pb2.RejectLoanRequest(external_id=external_id)
        done = f"Loan {external_id} is rejected."
        return await self._site.act(visit, self._site.api.loans.RejectLoan, refuse, done=done, to=to)

    async def payment(self, visit: Visit) -> Response:
        """One payment, and how it was spread."""
        found = await self._one(visit, resources.find_payment, "payment")
        loans = await self._database.read(lambda c: resources.loans_of_payment(c, found["id"]))
        parts = await self._database.read(lambda c: resources.parts_of_loans(c, [loan["id"] for loan in loans]))
        mine = {part["loan_id"]: part["amount"] for part in parts if part["payment_id"] == found["id"]}
        draw = partial(pictures.spread, loans=loans, parts=parts, payment_id=found["id"])
        return self._site.render(
            visit,
            "payment.html",
            payment=found,
            loans=loans,
            mine=mine,
            spread=charts.twice(draw) if loans else "",
            words=PAYMENT_STATUS[found["status"]],
            rejection=REJECTION.get(found["rejection_kind"], ""),
            loan_status=LOAN_STATUS,
        )

    async def confirm_rejection(self, visit: Visit) -> Response:
        """Ask once more, and for the reason, before a bounced payment is taken back."""
        found = await self._one(visit, resources.find_payment, "payment")
        return self._site.ask(
            visit,
            "confirm_payment.html",
            title=f"Reject payment {found['external_id']}",
            text=f"Its {found['total_amount']:,.2f} will be owed again by {found['customer']}. This cannot be undone.",
            button="Reject",
            back=f"payments/{found['external_id']}",
        )

    async def reject_payment(self, visit: Visit) -> Response:
        """Take a bounced payment back."""
        external_id = self._id(visit)
        request = payments_pb2.RejectPaymentRequest(external_id=external_id, reason=visit.form.get("reason", "").strip())
        rpc = self._site.api.payments.RejectPayment
        done = f"Payment {external_id} is rejected; its loans are owed again."
        return await self._site.act(visit, rpc, request, done=done, to=f"payments/{external_id}")

    async def _one(self, visit: Visit, find: Any, kind: str) -> Mapping[str, Any]:
        external_id = self._id(visit)
        found: Mapping[str, Any] | None = await self._database.read(lambda c: find(c, external_id))
        if found is None:
            raise NotHereError(f"There is no {kind} {external_id}.")
        return found

    def _verb(self, visit: Visit) -> str:
        verb = str(visit.request.path_params["verb"])
        if verb not in ("activate", "reject"):
            raise NotHereError("There is no such page.")
        return verb

    def _id(self, visit: Visit) -> str:
        external_id = str(visit.request.path_params["external_id"])
        if not is_external_id(external_id):
            raise NotHereError("There is nothing with this id.")
        return external_id
