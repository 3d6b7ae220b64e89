"""The messages of customers that other domains answer with, too."""

from mo.customers.v1 import customers_pb2

from mo_grpc.customers.rules import Balance
from mo_grpc.journal.rules import Recorded
from mo_grpc.rpc.conversions import money


def balance_after(customer_external_id: str, recorded: Recorded | None) -> customers_pb2.CustomerBalance | None:
    """The balance after a change, as a message; None in the answer of a read."""
    return balance_message(Balance(customer_external_id, recorded.score, recorded.debt)) if recorded else None


def balance_message(balance: Balance) -> customers_pb2.CustomerBalance:
    """A balance, as a message."""
    return customers_pb2.CustomerBalance(
        external_id=balance.external_id,
        score=money(balance.score),
        total_debt=money(balance.total_debt),
        available_amount=money(balance.available_amount),
    )
