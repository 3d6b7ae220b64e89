"""The search for secrets, at the end of the run (tests/conftest.py), would find what it looks for."""

from pathlib import Path

import pytest

from mo_grpc.auth.api_keys.rules import Credential
from tests import factories, secrets
from tests.conftest import Stack


def test_a_line_that_names_a_customer_is_found(tmp_path: Path) -> None:
    line = f"the customer {factories.new_id('customer')} is gone"
    (tmp_path / "serve.log").write_text(f"ready\n{line}\n")
    assert factories.named_in(tmp_path) == [line]


def test_the_search_finds_what_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_used", {secrets.PASSWORD})
    key, other, token = Credential.generate(), Credential.generate(), "eyJhbGciOi.eyJzdWIiOiI1.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
    secrets.answered({"api_key": [{"key": str(key)}], "tokens": {"access_token": token}})
    lines = {
        "innocent": f"{other} is another",
        "key": f'{{"api_key": "{key}"}}',
        "secret": f"the secret {str(key).split('_')[2]} alone",
        "token": f"authorization: Bearer {token}",
        "password": f"basic ana@example.org:{secrets.PASSWORD}",
    }
    for name, line in lines.items():
        (tmp_path / name).write_text(line)
    assert sorted(secrets.shown_in(tmp_path)) == ["key", "password", "secret", "token"]


def test_the_stack_logs_all_there_is(stack: Stack) -> None:
    """Or finding nothing would mean nothing."""
    assert stack.environment["MO_LOG_LEVEL"] == "debug"
    assert secrets.count() > 2
    assert {path.name for path in (stack.data_dir / "log").iterdir()} >= {"serve.log", "edge.log"}
