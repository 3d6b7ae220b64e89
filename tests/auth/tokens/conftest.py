"""Tokens are those of users."""

from tests.auth.users.conftest import doors, new_person, over_doors, patience  # noqa: F401 - fixtures
