"""What each RPC asks of its caller: one table for all, and what is not in it is refused."""

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
_KEYS = "/mo.auth.v1.ApiKeyService/"
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
    f"{_PAYMENTS}BatchCreatePayments": "payments:write",
    f"{_IMPORTS}UploadCustomers": "imports:write",
    f"{_IMPORTS}CreateImport": "imports:write",
    f"{_IMPORTS}GetImport": "imports:read",
    f"{_IMPORTS}ListImports": "imports:read",
    f"{_IMPORTS}ListImportErrors": "imports:read",
    f"{_IMPORTS}CancelImport": "imports:write",
    f"{_IMPORTS}WatchImport": "imports:read",
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
