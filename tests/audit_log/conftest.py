"""Users log in here, too."""

from tests.auth.users.conftest import doors, new_user, over_doors, patience  # noqa: F401 - fixtures
