from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pyotp

from tests.auth.users.conftest import Doors, NewUser, User, basic, reason, refused, rows, totp
from tests.conftest import Stack
from tests.doors import GrpcDoor, Refused
from tests.secrets import PASSWORD
from tests.servers import a_server
from tests.waiting import eventually


class Enrolled(User):
    """A user with one-time codes."""

    secret: str
    recovery_codes: list[str]


def enroll(doors: Doors, user: User) -> Enrolled:
    """Turn codes on with the code of the step before, so that the codes of now and next are still good."""
    door = doors.user(user.email)
    made = door("auth.EnrollOtp", password=PASSWORD)
    codes = door("auth.ConfirmOtp", code=totp(made["secret"], -1))
    enrolled = Enrolled(user.id, user.email)
    enrolled.secret, enrolled.recovery_codes = made["secret"], codes["recovery_codes"]
    return enrolled


def wrong(secret: str) -> str:
    """A code that is none of the secret's, now or nearby."""
    return next(code for code in ("000000", "111111", "222222", "333333") if code not in {totp(secret, n) for n in (0, 1)})


def test_from_enrolment_to_the_login_with_a_code(doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    door = doors.user(user.email)
    made = door("auth.EnrollOtp", password=PASSWORD)
    uri = urlsplit(made["otpauth_uri"])
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert parse_qs(uri.query)["secret"] == [made["secret"]]
    assert isinstance(pyotp.parse_uri(made["otpauth_uri"]), pyotp.TOTP)
    assert made["qr_code_png"].startswith("iVBORw0KGgo")  # a PNG, in base64
    assert doors.tokens(user.email)  # nothing has changed yet
    assert reason(lambda: door("auth.ConfirmOtp", code=wrong(made["secret"]))) == ("CREDENTIALS_INVALID")
    assert len(set(door("auth.ConfirmOtp", code=totp(made["secret"], -1))["recovery_codes"])) == 10
    assert doors.tokens(user.email, code=totp(made["secret"]))
    assert reason(lambda: door("auth.EnrollOtp", password=PASSWORD)) == "OTP_ALREADY_ENABLED"
    assert reason(lambda: door("auth.ConfirmOtp", code=totp(made["secret"]))) == "OTP_NOT_ENABLED"


def test_the_challenge_waits_for_the_code(doors: Doors, new_user: NewUser) -> None:
    user = enroll(doors, new_user())
    answer = doors.login(user.email)
    assert list(answer) == ["otp_challenge"]
    challenge = answer["otp_challenge"]["challenge"]
    door = doors.open({})
    assert refused(lambda: door("auth.CreateToken", challenge=challenge)).fields.keys() == {"code"}
    assert reason(lambda: door("auth.CreateToken", challenge=challenge, code=wrong(user.secret))) == "CREDENTIALS_INVALID"
    assert reason(lambda: doors.bearer(challenge)("customers.ListCustomers")) == "TOKEN_INVALID"
    tokens = door("auth.CreateToken", challenge=challenge, code=totp(user.secret))["tokens"]
    token = tokens["access_token"]
    assert doors.bearer(token)("customers.ListCustomers", page_size=1)
    assert reason(lambda: door("auth.CreateToken", challenge=token, code=totp(user.secret, 1))) == "CREDENTIALS_INVALID"


def test_a_challenge_ends_with_the_password(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = enroll(over_doors, new_user())
    challenge = over_doors.login(user.email)["otp_challenge"]["challenge"]
    over_doors.tokens(user.email, code=totp(user.secret), new_password="copper meadow 17")
    late = refused(lambda: over_doors.open({})("auth.CreateToken", challenge=challenge, code=totp(user.secret, 1)))
    assert late.reason == "CREDENTIALS_INVALID"


def test_a_challenge_ends_in_time(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = enroll(over_doors, new_user())
    secret = (stack.data_dir / "secret.key").read_text()
    with a_server(stack.environment, SECRET_KEY=secret, OTP_TOKEN_EXPIRATION_TIME="1") as server:
        door = GrpcDoor(server.channel, (("authorization", basic(user.email)),))
        asked = door("auth.CreateToken")["otp_challenge"]
        eventually(lambda: datetime.fromisoformat(asked["expires_at"]) < datetime.now(UTC), 3)
        door = GrpcDoor(server.channel)
        refusal = refused(lambda: door("auth.CreateToken", challenge=asked["challenge"], code=totp(user.secret)))
        assert refusal.reason == "CREDENTIALS_INVALID"


def test_a_code_counts_once(doors: Doors, new_user: NewUser) -> None:
    user = enroll(doors, new_user())
    code = totp(user.secret)
    assert doors.tokens(user.email, code=code)
    assert reason(lambda: doors.tokens(user.email, code=code)) == "CREDENTIALS_INVALID"
    older = totp(user.secret, -1)
    assert reason(lambda: doors.tokens(user.email, code=older)) == "CREDENTIALS_INVALID"
    assert doors.tokens(user.email, code=totp(user.secret, 1))


def test_a_code_that_is_far_off_is_refused(over_doors: Doors, new_user: NewUser) -> None:
    user = enroll(over_doors, new_user())
    for step in (-3, 3):
        code = totp(user.secret, step)
        assert reason(lambda code=code: over_doors.tokens(user.email, code=code)) == "CREDENTIALS_INVALID"  # type: ignore[misc]


def test_of_one_code_twice_at_once_one_is_accepted(over_doors: Doors, new_user: NewUser) -> None:
    for make in (lambda user: totp(user.secret), lambda user: user.recovery_codes[0]):
        user = enroll(over_doors, new_user())
        code = make(user)

        def login(_: int, user: User = user, code: str = code) -> str:
            try:
                over_doors.tokens(user.email, code=code)
            except Refused as refusal:
                return refusal.reason
            return ""

        with ThreadPoolExecutor(4) as threads:
            assert sorted(threads.map(login, range(4))) == ["", *["CREDENTIALS_INVALID"] * 3]


def test_codes_that_are_guessed_make_the_account_wait(over_doors: Doors, new_user: NewUser) -> None:
    user = enroll(over_doors, new_user())
    challenge = over_doors.login(user.email)["otp_challenge"]["challenge"]
    door = over_doors.open({})
    reasons = [reason(lambda: door("auth.CreateToken", challenge=challenge, code=wrong(user.secret))) for _ in range(5)]
    assert reasons == ["CREDENTIALS_INVALID"] * 4 + ["TOO_MANY_ATTEMPTS"]


def test_a_recovery_code_stands_in_once(doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = enroll(doors, new_user())
    first, second = user.recovery_codes[:2]
    assert doors.tokens(user.email, code=first)
    assert reason(lambda: doors.tokens(user.email, code=first)) == "CREDENTIALS_INVALID"
    assert doors.tokens(user.email, code=second.lower().replace("-", " "))
    other = enroll(doors, new_user())
    assert reason(lambda: doors.tokens(user.email, code=other.recovery_codes[0])) == "CREDENTIALS_INVALID"
    stored = str(rows(stack, "SELECT * FROM recovery_codes WHERE user_id = %s", user.id))
    assert not [code for code in user.recovery_codes if code.replace("-", "") in stored or code in stored]
    [(secret,)] = rows(stack, "SELECT otp_secret FROM users WHERE id = %s", user.id)
    assert user.secret.encode() not in secret


def test_disabling_takes_the_password_and_a_code(doors: Doors, new_user: NewUser) -> None:
    user = enroll(doors, new_user())
    door = doors.bearer(doors.tokens(user.email, code=totp(user.secret))["access_token"])
    next_code = totp(user.secret, 1)
    assert reason(lambda: door("auth.DisableOtp", password="wrong password", code=next_code)) == "CREDENTIALS_INVALID"
    assert reason(lambda: door("auth.DisableOtp", password=PASSWORD, code=wrong(user.secret))) == "CREDENTIALS_INVALID"
    assert list(doors.login(user.email)) == ["otp_challenge"]
    door("auth.DisableOtp", password=PASSWORD, code=next_code)
    assert doors.tokens(user.email)
    assert reason(lambda: door("auth.DisableOtp", password=PASSWORD, code=next_code)) == "OTP_NOT_ENABLED"
    assert reason(lambda: doors.tokens(user.email, "wrong password", code=user.recovery_codes[0])) == "CREDENTIALS_INVALID"
    # A second enrolment has another secret and other recovery codes.
    again = enroll(doors, user)
    assert again.secret != user.secret
    assert reason(lambda: doors.tokens(user.email, code=user.recovery_codes[0])) == "CREDENTIALS_INVALID"


def test_enrolling_takes_the_password(doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    door = doors.user(user.email)
    assert reason(lambda: door("auth.EnrollOtp", password="wrong password")) == "CREDENTIALS_INVALID"
    assert reason(lambda: door("auth.ConfirmOtp", code="123456")) == "OTP_NOT_ENABLED"
    first = door("auth.EnrollOtp", password=PASSWORD)
    second = door("auth.EnrollOtp", password=PASSWORD)
    assert reason(lambda: door("auth.ConfirmOtp", code=totp(first["secret"]))) == "CREDENTIALS_INVALID"
    assert door("auth.ConfirmOtp", code=totp(second["secret"]))


def test_whoever_lost_all_is_helped_at_the_command_line(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = enroll(over_doors, new_user())
    stack.cli("users", "disable-otp", user.email)
    assert over_doors.tokens(user.email)
    done = stack.cli("users", "disable-otp", user.email, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_server_with_another_secret_says_so_in_its_log_alone(over_doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = enroll(over_doors, new_user())
    with a_server(stack.environment, SECRET_KEY="another " * 5) as server:
        door = GrpcDoor(server.channel, (("authorization", basic(user.email)),))
        assert reason(lambda: door("auth.CreateToken", code=totp(user.secret))) == "INTERNAL_ERROR"


TYPED: dict[str, Callable[[str], str]] = {
    "as the app shows it": lambda code: f"{code[:3]} {code[3:]}",
    "pasted with space around": lambda code: f"\t {code}\r\n",
    "with a hyphen": lambda code: f"{code[:3]}-{code[3:]}",
    "with a dash": lambda code: f"{code[:3]}\u2013{code[3:]}",
    "with a dot": lambda code: f"{code[:2]}.{code[2:4]}.{code[4:]}",
    "with spaces that are none of ASCII's": lambda code: f"\u200b{code[:3]}\u00a0{code[3:]}\u3000",
    "in full-width digits": lambda code: "".join(chr(ord(digit) + 0xFEE0) for digit in code),
    "in Arabic digits": lambda code: "".join(chr(ord(digit) - 48 + 0x660) for digit in code),
}


def test_a_code_counts_however_it_is_typed(doors: Doors, new_user: NewUser, stack: Stack) -> None:
    user = new_user()
    door = doors.user(user.email)

    def unused() -> None:
        """Let the code of now count again, which saves waiting for the next."""
        rows(stack, "UPDATE users SET otp_last_step = 0 WHERE id = %s", user.id)

    secret = door("auth.EnrollOtp", password=PASSWORD)["secret"]
    for typed in list(TYPED.values())[:-1]:
        door("auth.ConfirmOtp", code=typed(totp(secret)))
        unused()
        door("auth.DisableOtp", password=PASSWORD, code=typed(totp(secret)))
        secret = door("auth.EnrollOtp", password=PASSWORD)["secret"]
    recovery = door("auth.ConfirmOtp", code=TYPED["in Arabic digits"](totp(secret)))["recovery_codes"]
    for typed in TYPED.values():
        unused()
        assert doors.tokens(user.email, code=typed(totp(secret)))
        unused()
        challenge = doors.login(user.email)["otp_challenge"]["challenge"]
        assert doors.open({})("auth.CreateToken", challenge=challenge, code=typed(totp(secret)))["tokens"]
    assert doors.tokens(user.email, code=f" {recovery[0].replace('-', chr(0x2014)).lower()}\n")


def test_what_cannot_be_a_code_is_no_attempt(doors: Doors, new_user: NewUser) -> None:
    user = new_user()
    door = doors.user(user.email)
    secret = door("auth.EnrollOtp", password=PASSWORD)["secret"]
    malformed = ("12345", "1234567", "12345x", "nonsense", "---", "one two three", "\u0661\u0662x")
    for code in malformed:
        assert refused(lambda code=code: door("auth.ConfirmOtp", code=code)).fields.keys() == {"code"}  # type: ignore[misc]
    recovery = door("auth.ConfirmOtp", code=totp(secret, -1))["recovery_codes"]
    challenge = doors.login(user.email)["otp_challenge"]["challenge"]
    for code in malformed:
        calls = (
            lambda code=code: doors.login(user.email, code=code),
            lambda code=code: doors.login(user.email, "a wrong password", code=code),
            lambda code=code: doors.open({})("auth.CreateToken", challenge=challenge, code=code),
            lambda code=code: door("auth.DisableOtp", password="a wrong password", code=code),
        )
        assert [list(refused(call).fields) for call in calls] == [["code"]] * len(calls)
    # None of them made the account wait.
    assert doors.tokens(user.email, code=recovery[0])
