"""What a customer owes, as SQL, in one place for every statement that sums it up.

The PENDING and the ACTIVE loans count (docs/rules.md, R12). They belong to the customers, not to the loans, because a
customer's balance is computed with them.
"""

from typing import Final

from mo.loans.v1.loans_pb2 import Loan

OPEN: Final = f"status IN ({Loan.PENDING}, {Loan.ACTIVE})"
"""The condition of a loan that counts."""


def debt_of(customer_id: str) -> str:
    """The debt of the customer whose id an expression is, as an expression; 0.00 if there is none."""
    return f"(SELECT coalesce(sum(outstanding), 0.00) FROM loans WHERE customer_id = {customer_id} AND {OPEN})"  # noqa: S608


def debts(condition: str = "true") -> str:
    """The debts of the customers that have any, of the loans that meet a condition: a query."""
    return (
        "SELECT customer_id, sum(outstanding) AS debt, count(*) AS open_loans "  # noqa: S608 - constants
        f"FROM loans WHERE {condition} AND {OPEN} GROUP BY customer_id"
    )
