"""Users call the server, too."""

from tests.auth.users.conftest import new_user, over_doors  # noqa: F401 - fixtures
