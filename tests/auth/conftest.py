"""People, too, hold keys to the API."""

from tests.people.conftest import new_person  # noqa: F401 - a fixture
