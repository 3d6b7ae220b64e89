"""The API as the demo uses it: calls with a key, and their outcomes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from mo.customers.v1 import customers_pb2, customers_pb2_grpc
from mo.loans.v1 import loans_pb2, loans_pb2_grpc
from mo.payments.v1 import payments_pb2, payments_pb2_grpc

from mo_grpc.demo.portfolio import Portfolio

T = TypeVar("T")

CONNECTIONS = 4
"""How many calls are made at once, where their order does not matter."""

_DEADLINE = 30.0
_PAGE = 1000

# What a retry may mend, by gRPC's own means.
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"],
}
CHANNEL_OPTIONS = (("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRY}]})),)

OK = grpc.StatusCode.OK
EXISTS = grpc.StatusCode.ALREADY_EXISTS
# After an interrupted run, others may have changed its rows, so a loan or payment may also be missing.
REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


class Api:
    """The API, as a client with a key calls it."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        customers = customers_pb2_grpc.CustomerServiceStub(channel)
        loans = loans_pb2_grpc.LoanServiceStub(channel)
        payments = payments_pb2_grpc.PaymentServiceStub(channel)
        self._metadata = metadata
        self._rpcs: dict[type[Message], Callable[..., Awaitable[Any]]] = {
            customers_pb2.CreateCustomerRequest: customers.CreateCustomer,
            customers_pb2.GetCustomerRequest: customers.GetCustomer,
            customers_pb2.UpdateCustomerRequest: customers.UpdateCustomer,
            loans_pb2.CreateLoanRequest: loans.CreateLoan,
            loans_pb2.ListLoansRequest: loans.ListLoans,
            loans_pb2.ActivateLoanRequest: loans.ActivateLoan,
            loans_pb2.RejectLoanRequest: loans.RejectLoan,
            payments_pb2.CreatePaymentRequest: payments.CreatePayment,
            payments_pb2.BatchCreatePaymentsRequest: payments.BatchCreatePayments,
            payments_pb2.ListPaymentsRequest: payments.ListPayments,
            payments_pb2.RejectPaymentRequest: payments.RejectPayment,
        }

    async def call(self, request: Message) -> Any:
        """Make the call that takes this request."""
        return await self._rpcs[type(request)](request, metadata=self._metadata, timeout=_DEADLINE)

    async def make(self, requests: Sequence[Message]) -> list[grpc.StatusCode]:
        """Make calls, several payments as one batch; answer the status of each.

        Raises:
            grpc.aio.AioRpcError: a call failed otherwise than by a refusal.
        """
        if len(requests) > 1:
            answer = await self.call(payments_pb2.BatchCreatePaymentsRequest(requests=requests))  # type: ignore[arg-type]
            return [_CODES[result.status.code] for result in answer.results]
        try:
            await self.call(requests[0])
        except grpc.aio.AioRpcError as error:
            if error.code() not in (EXISTS, *REFUSED):
                raise
            return [error.code()]
        return [OK]

    async def portfolio(self, names: Sequence[str]) -> Portfolio:
        """Read these customers, with their loans and payments, as far as they exist."""
        found = Portfolio([], [], [])
        for some in slices(names, CONNECTIONS):
            for part in await asyncio.gather(*map(self._read, some)):
                found.add(part)
        return found

    async def _read(self, name: str) -> Portfolio:
        try:
            customer = await self.call(customers_pb2.GetCustomerRequest(external_id=name))
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            return Portfolio([], [], [])
        found = Portfolio([customer], [], [])
        loans = loans_pb2.ListLoansRequest(customer_external_id=name, page_size=_PAGE)
        payments = payments_pb2.ListPaymentsRequest(customer_external_id=name, page_size=_PAGE)
        async for page in self._pages(loans):
            found.loans.extend(page.loans)
        async for page in self._pages(payments):
            found.payments.extend(page.payments)
        return found

    async def _pages(self, request: Any) -> AsyncIterator[Any]:
        while True:
            page = await self.call(request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
