"""OtpService over the accounts."""

from mo.auth.v1 import otp_pb2, otp_pb2_grpc

from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.rpc.caller import user_session
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.metadata import NO_STORE, Addresses


class OtpServicer(otp_pb2_grpc.OtpServiceServicer):
    """See `mo/auth/v1/otp.proto`."""

    def __init__(self, accounts: Accounts, addresses: Addresses) -> None:
        self._addresses = addresses
        self._accounts = accounts

    async def EnrollOtp(self, request: otp_pb2.EnrollOtpRequest, context: Context) -> otp_pb2.EnrollOtpResponse:
        made = await self._accounts.enroll(user_session().user_id, request.password, self._addresses(context))
        await context.send_initial_metadata(NO_STORE)
        return otp_pb2.EnrollOtpResponse(secret=made.secret, otpauth_uri=made.uri, qr_code_png=made.qr_code_png)

    async def ConfirmOtp(self, request: otp_pb2.ConfirmOtpRequest, context: Context) -> otp_pb2.ConfirmOtpResponse:
        codes = await self._accounts.confirm(user_session().user_id, request.code, self._addresses(context))
        await context.send_initial_metadata(NO_STORE)
        return otp_pb2.ConfirmOtpResponse(recovery_codes=codes)

    async def DisableOtp(self, request: otp_pb2.DisableOtpRequest, context: Context) -> otp_pb2.DisableOtpResponse:
        await self._accounts.disable(user_session().user_id, request.password, request.code, self._addresses(context))
        return otp_pb2.DisableOtpResponse()
