"""People, too, hold keys to the API."""

from tests.auth.users.conftest import new_person, over_doors  # noqa: F401 - fixtures
