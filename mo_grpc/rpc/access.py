"""What each RPC asks of its caller: one table for all, and what is not in it is refused."""

from enum import Enum
from typing import Final

PUBLIC: Final = ""

BASIC: Final = "basic"
"""The RPC itself looks at the credentials that it takes: Basic ones, a challenge, a refresh token."""

ACCOUNT: Final = "account:write"
"""One's own account; every user has this scope, and no API key."""

_CUSTOMERS = "/mo.customers.v1.CustomerService/"
_LOANS = "/mo.loans.v1.LoanService/"
_PAYMENTS = "/mo.payments.v1.PaymentService/"
_IMPORTS = "/mo.imports.v1.ImportService/"
_JOURNAL = "/mo.journal.v1.JournalService/"
_WEBHOOKS = "/mo.webhooks.v1.WebhookService/"
_KEYS = "/mo.auth.v1.ApiKeyService/"
_STATEMENTS = "/mo.statements.v1.StatementService/"
_TOKENS = "/mo.auth.v1.TokenService/"
_OTP = "/mo.auth.v1.OtpService/"

ACCESS: Final = {
    f"{_CUSTOMERS}CreateCustomer": "customers:write",
    f"{_CUSTOMERS}GetCustomer": "customers:read",
    f"{_CUSTOMERS}ListCustomers": "customers:read",
    f"{_CUSTOMERS}UpdateCustomer": "customers:write",
    f"{_CUSTOMERS}GetCustomerBalance": "customers:read",
    f"{_LOANS}CreateLoan": "loans:write",
    f"{_LOANS}GetLoan": "loans:read",
    f"{_LOANS}ListLoans": "loans:read",
    f"{_LOANS}ActivateLoan": "loans:write",
    f"{_LOANS}RejectLoan": "loans:write",
    f"{_PAYMENTS}CreatePayment": "payments:write",
    f"{_PAYMENTS}GetPayment": "payments:read",
    f"{_PAYMENTS}ListPayments": "payments:read",
    f"{_PAYMENTS}RejectPayment": "payments:write",
    f"{_PAYMENTS}ExplainPayment": "payments:read",
    f"{_PAYMENTS}BatchCreatePayments": "payments:write",
    f"{_IMPORTS}UploadCustomers": "imports:write",
    f"{_IMPORTS}CreateImport": "imports:write",
    f"{_IMPORTS}GetImport": "imports:read",
    f"{_IMPORTS}ListImports": "imports:read",
    f"{_IMPORTS}ListImportErrors": "imports:read",
    f"{_IMPORTS}CancelImport": "imports:write",
    f"{_IMPORTS}WatchImport": "imports:read",
    f"{_JOURNAL}ListEvents": "events:read",
    f"{_JOURNAL}WatchEvents": "events:read",
    f"{_JOURNAL}StreamEvents": "events:read",
    f"{_STATEMENTS}GetStatement": "events:read",
    f"{_WEBHOOKS}CreateWebhook": "webhooks:write",
    f"{_WEBHOOKS}GetWebhook": "webhooks:read",
    f"{_WEBHOOKS}ListWebhooks": "webhooks:read",
    f"{_WEBHOOKS}UpdateWebhook": "webhooks:write",
    f"{_WEBHOOKS}DeleteWebhook": "webhooks:write",
    f"{_WEBHOOKS}RotateSecret": "webhooks:write",
    f"{_WEBHOOKS}SendTestEvent": "webhooks:write",
    f"{_WEBHOOKS}ListAttempts": "webhooks:read",
    f"{_WEBHOOKS}ResendAttempt": "webhooks:write",
    f"{_WEBHOOKS}ResendFailed": "webhooks:write",
    f"{_KEYS}CreateApiKey": "keys:write",
    f"{_KEYS}GetApiKey": "keys:read",
    f"{_KEYS}ListApiKeys": "keys:read",
    f"{_KEYS}RotateApiKey": "keys:write",
    f"{_KEYS}RevokeApiKey": "keys:write",
    f"{_TOKENS}CreateToken": BASIC,
    f"{_TOKENS}RefreshToken": BASIC,
    f"{_TOKENS}RevokeToken": ACCOUNT,
    f"{_TOKENS}GetJwks": PUBLIC,
    f"{_OTP}EnrollOtp": ACCOUNT,
    f"{_OTP}ConfirmOtp": ACCOUNT,
    f"{_OTP}DisableOtp": ACCOUNT,
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/List": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}
"""From an RPC's full method name to the scope its caller needs; `PUBLIC` and `BASIC` need no key."""

SERVICES: Final = tuple(dict.fromkeys(method.split("/")[1] for method in ACCESS if method.startswith("/mo.")))
"""Our services by their full names; those of gRPC's own, health and reflection, are not among them."""

GRANTABLE: Final = frozenset(ACCESS.values()) - {PUBLIC, BASIC, ACCOUNT}
"""The scopes that a key may have; only users have accounts."""


class Bound(Enum):
    """How an RPC serves a caller whose API key is bound to customers (docs/rules.md, R77)."""

    CUSTOMER = "The request names a customer: others are NOT_FOUND."
    OWNED = "The request names something of a customer: what is others' is NOT_FOUND."
    ITEMS = "Each item of the request names a customer: an item for another is NOT_FOUND."
    LIST = "The answer leaves out what is others'."
    STREAM = "The same, of each of its answers."
    NEW = "The request makes a customer: another id is PERMISSION_DENIED."
    NEVER = "A bound key cannot have the scope."


BOUND: Final = {
    f"{_CUSTOMERS}CreateCustomer": Bound.NEW,
    f"{_CUSTOMERS}GetCustomer": Bound.CUSTOMER,
    f"{_CUSTOMERS}ListCustomers": Bound.LIST,
    f"{_CUSTOMERS}UpdateCustomer": Bound.CUSTOMER,
    f"{_CUSTOMERS}GetCustomerBalance": Bound.CUSTOMER,
    f"{_LOANS}CreateLoan": Bound.CUSTOMER,
    f"{_LOANS}GetLoan": Bound.OWNED,
    f"{_LOANS}ListLoans": Bound.LIST,
    f"{_LOANS}ActivateLoan": Bound.OWNED,
    f"{_LOANS}RejectLoan": Bound.OWNED,
    f"{_PAYMENTS}CreatePayment": Bound.CUSTOMER,
    f"{_PAYMENTS}GetPayment": Bound.OWNED,
    f"{_PAYMENTS}ListPayments": Bound.LIST,
    f"{_PAYMENTS}RejectPayment": Bound.OWNED,
    f"{_PAYMENTS}ExplainPayment": Bound.OWNED,
    f"{_PAYMENTS}BatchCreatePayments": Bound.ITEMS,
    f"{_JOURNAL}ListEvents": Bound.LIST,
    f"{_JOURNAL}WatchEvents": Bound.STREAM,
    f"{_JOURNAL}StreamEvents": Bound.STREAM,
    f"{_STATEMENTS}GetStatement": Bound.CUSTOMER,
    **{method: Bound.NEVER for method in ACCESS if method.startswith((_IMPORTS, _WEBHOOKS, _KEYS))},
}
"""How each RPC that takes an API key serves a bound one; an RPC that is not in it refuses bound keys."""

BINDABLE: Final = frozenset(ACCESS[method] for method, bound in BOUND.items() if bound is not Bound.NEVER)
"""The scopes that a bound key may have."""
