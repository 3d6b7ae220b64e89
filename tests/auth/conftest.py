"""People, too, hold keys to the API."""

from tests.people.conftest import new_person, over_doors  # noqa: F401 - fixtures
