"""Users, for administrators.

There is no RPC for users: changes go through `auth.users.administration`, as the command line's do, which records each.
"""

import secrets

from starlette.responses import Response

from mo_grpc.audit_log.rules import Actor
from mo_grpc.auth.api_keys.store import keys_made_by
from mo_grpc.auth.users.accounts import Accounts
from mo_grpc.auth.users.administration import UserAdministration
from mo_grpc.auth.users.rules import NewUser, Role, User, normal_email
from mo_grpc.auth.users.store import find_user
from mo_grpc.errors import InvalidFields, PreconditionFailed
from mo_grpc.web.admin.context import NotHereError, RequestContext
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.queries.lists import USERS
from mo_grpc.web.admin.rules import chosen, whole_number
from mo_grpc.web.admin.site import Site

_IRREVERSIBLE = {
    "reset": (
        "Create a new password for",
        "The old password stops working at once. The new one is shown only once, and has to be changed at the next login.",
        "Create a new password",
    ),
    "otp": (
        "Turn off one-time codes for",
        "The password alone is enough then, and the codes of the user's device never work again.",
        "Turn off one-time codes",
    ),
}
"""What cannot be taken back: its question, what it does, and its button."""
_MAX_NAME = 100


class UserPages:
    """The pages of users."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._accounts = Accounts(site.settings, site.database, site.vault)
        self.list = ListPage(site, USERS, "users.html")

    async def show_list(self, context: RequestContext) -> Response:
        """The users."""
        return await self.list.render(context)

    async def show_form(self, context: RequestContext) -> Response:
        """The form for a new user."""
        return self._site.render.page(context, "user_new.html", fault="", form=context.form)

    async def create(self, context: RequestContext) -> Response:
        """Create a user with a password for the first login, shown this once, which then has to be changed."""
        form = context.form
        email = normal_email(form.get("email", ""))
        first, last = (form.get(name, "").strip()[:_MAX_NAME] for name in ("first_name", "last_name"))
        fault = "" if email else "This is not an e-mail address."
        if not fault:
            password = _first_password()
            hashed = await self._accounts.hash(password, email)
            command = NewUser(email, first, last, self._role(context), True, hashed, True)
            user = await self._administration(context).create(command)
            if user:
                return self._site.render.page(context, "password_made.html", email=email, password=password, id=user.id)
            fault = f"There is a user {email} already."
        return self._site.render.page(context, "user_new.html", 400, fault=fault, form=form)

    async def show(self, context: RequestContext) -> Response:
        """One user."""
        user = await self._find(context)
        keys = await self._site.database.read(lambda c: keys_made_by(c, f"user-{user.id}"))
        return self._site.render.page(context, "user.html", user=user, own=user.id == context.person.id, keys=keys)

    async def confirm(self, context: RequestContext) -> Response:
        """Ask once more before a password, or what makes one-time codes, is gone."""
        user = await self._find(context)
        action = str(context.request.path_params["action"])
        if action not in _IRREVERSIBLE:
            raise NotHereError("There is no such page.")
        title, text, button = _IRREVERSIBLE[action]
        to = f"users/{user.id}"
        return self._site.render.confirm(
            context,
            "confirm_user.html",
            title=f"{title} {user.email}",
            text=text,
            button=button,
            back=to,
            to=to,
            action=action,
        )

    async def change(self, context: RequestContext) -> Response:
        """Lock or unlock a user, or give it another role, another password, or no codes."""
        user = await self._find(context)
        if user.id == context.person.id:
            return self._site.refuse(context, "You cannot change yourself here: ask another administrator.", f"users/{user.id}")
        administration = self._administration(context)
        action = context.form.get("action", "")
        try:
            if action == "reset":
                password = _first_password()
                hashed = await self._accounts.hash(password, user.email)
                await administration.set_password(user, hashed, must_change=True)
                return self._site.render.page(context, "password_made.html", email=user.email, password=password, id=user.id)
            if action == "lock":
                await administration.lock(user, revoke_keys="revoke_keys" in context.form)
            elif action == "unlock":
                await administration.unlock(user)
            elif action == "role":
                await administration.set_role(user, self._role(context))
            elif action == "otp":
                await administration.disable_otp(user)
            else:
                raise NotHereError("There is no such action.")
        except (PreconditionFailed, InvalidFields) as refusal:
            return self._site.refuse(context, refusal.message, f"users/{user.id}")
        context.session.say("Done.")
        return self._site.redirect(f"users/{user.id}")

    def _administration(self, context: RequestContext) -> UserAdministration:
        actor = Actor(f"user-{context.person.id}", context.address)
        return UserAdministration(self._site.database, self._site.vault, actor)

    def _role(self, context: RequestContext) -> Role:
        return Role(chosen(context.form.get("role", ""), Role) or Role.VIEWER)

    async def _find(self, context: RequestContext) -> User:
        user_id = whole_number(context.request.path_params["id"]) or 0
        user = await self._site.database.read(lambda c: find_user(c, user_id))
        if user is None:
            raise NotHereError("There is no such user.")
        return user


def _first_password() -> str:
    return secrets.token_urlsafe(15)
