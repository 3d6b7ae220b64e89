"""Users, too, hold keys to the API."""

from tests.auth.users.conftest import new_user, over_doors  # noqa: F401 - fixtures
