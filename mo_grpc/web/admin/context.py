"""One request to the admin: who makes it, their session, the form that they sent; and why it can be refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from mo_grpc.web.admin.rules import Person, is_from, printable_utf8
from mo_grpc.web.admin.sessions import BrowserSession

_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 200

NOBODY = Person(0, "", "", "", 1, False)


class NotAllowedError(Exception):
    """The person may not do this; the message says why."""


class BadFormError(Exception):
    """What was sent is not the form of any page; the message says why."""


class NotHereError(Exception):
    """There is no such page; the message says what is missing."""


@dataclass
class RequestContext:
    """One request, and who makes it."""

    request: Request
    session: BrowserSession
    person: Person
    address: str
    form: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    """The fields of the form that come several times."""

    # Starlette's `request.url` depends on the Host header, which may be anything.
    @property
    def path(self) -> str:
        """The path that was asked for."""
        return str(self.request.scope["path"])

    @property
    def query(self) -> str:
        """The query, as it was sent."""
        return bytes(self.request.scope["query_string"]).decode("latin-1")

    def end_session(self) -> None:
        """Forget the login in this browser."""
        self.session, self.person = BrowserSession(seen=self.session.seen), NOBODY

    async def read_form(self) -> None:
        """Read the texts of the form.

        Raises:
            BadFormError: it is damaged, has too many fields, or is not sent as the pages send forms.
        """
        try:
            if self.request.headers.get("content-type", "").partition(";")[0].lower() != _FORM:
                raise BadFormError("The form is damaged.")
            body = (await self.request.body()).decode("latin-1")
            pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        except (ClientDisconnect, ValueError) as error:
            raise BadFormError("The form is damaged.") from error
        lists: dict[str, list[str]] = {}
        for name, value in pairs:
            lists.setdefault(name, []).append(printable_utf8(value))
        self.form, self.lists = {name: values[0] for name, values in lists.items()}, lists

    def check_origin(self) -> None:
        """Refuse what another site sends; browsers say where a POST comes from.

        Raises:
            NotAllowedError: it comes from elsewhere.
        """
        origin = self.request.headers.get("origin")
        if origin is not None and not is_from(origin, self.request.headers.get("host", "")):
            raise NotAllowedError("This form was sent from another site.")

    def check_token(self, token: str) -> None:
        """Refuse a form that is not from a page of this session.

        Raises:
            NotAllowedError: it is not.
        """
        if self.session.is_forged(token):
            raise NotAllowedError("This form is not from this session: please load its page again.")
