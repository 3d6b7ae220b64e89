"""Users log in here, too."""

from tests.auth.users.conftest import doors, new_user, no_login_failures, over_doors  # noqa: F401 - fixtures
