"""The settings: that `env.example` tells the truth about them, what the values mean, and that wrong ones are named."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from mo_grpc.config import Settings
from mo_grpc.db.engine import database_url, migration_url
from tests.conftest import run_cli, settings_environment
from tests.repository import ROOT

EXAMPLE = (ROOT / "env.example").read_text(encoding="utf-8")
SHOWN = re.findall(r"^#([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE)


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env`, and no setting in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_env_example_lists_every_setting_once_and_no_other() -> None:
    assert sorted(name.lower() for name, _ in SHOWN) == sorted(Settings.model_fields)


def test_env_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(EXAMPLE, encoding="utf-8")
    assert Settings() == Settings.model_construct()


@pytest.mark.parametrize(("name", "value"), SHOWN)
def test_a_line_of_env_example_without_its_mark_is_read_and_shows_the_default(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{name}={value}\n", encoding="utf-8")
    default = Settings.model_fields[name.lower()].default
    read = getattr(Settings(), name.lower())
    if default in (None, ()):
        assert read != default
    else:
        assert read == default


def test_the_environment_wins_over_env_and_an_empty_value_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MO_HTTP_PORT=1111\nMO_GRPC_PORT=2222\nUNKNOWN=1\n", encoding="utf-8")
    monkeypatch.setenv("MO_HTTP_PORT", "3333")
    monkeypatch.setenv("DATABASE_HOST", "")
    settings = Settings()
    assert (settings.mo_http_port, settings.mo_grpc_port, settings.database_host) == (3333, 2222, None)


@pytest.mark.parametrize("name", ["HTTP_X_API_KEY", "X-API-KEY", "x-api-key", "X_Api_Key"])
def test_the_names_of_one_header(name: str) -> None:
    assert Settings.model_validate({"api_key_custom_header": name}).api_key_custom_header == "x-api-key"


@pytest.mark.parametrize("value", ["https://a.example,https://b.example", "https://a.example https://b.example", " , "])
def test_a_list_has_commas_or_spaces(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CORS_ALLOWED_ORIGINS", value)
    assert Settings().cors_allowed_origins == tuple(value.replace(",", " ").split())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "db.example"])
def test_any_database_host_is_a_database_of_ones_own(host: str) -> None:
    values = {"database_host": host, "database_user": "lender", "database_passwd": "p@ss/word", "database_port": 5433}
    url = database_url(Settings.model_validate(values))
    assert url.render_as_string(hide_password=False) == f"postgresql+psycopg://lender:p%40ss%2Fword@{host}:5433/mo"
    assert migration_url(Settings.model_validate(values)) == url


def test_the_database_url_wins_over_the_parts_and_is_served_by_psycopg() -> None:
    values = {"mo_database_url": "postgresql://mo:secret@one/mo", "database_host": "two"}
    url = database_url(Settings.model_validate(values))
    assert (url.drivername, url.host, url.password) == ("postgresql+psycopg", "one", "secret")


def test_migrations_may_have_a_url_of_their_own() -> None:
    values = {"mo_database_url": "postgresql://mo@one/mo", "mo_migration_database_url": "postgresql://owner@one/mo"}
    settings = Settings.model_validate(values)
    assert (database_url(settings).username, migration_url(settings).username) == ("mo", "owner")


@pytest.mark.parametrize("where", [{"mo_database_url": "postgresql://app:mine@one/mo"}, {"database_host": "one"}])
def test_the_owner_may_be_another_login_of_the_same_database(where: dict[str, str]) -> None:
    owner = {"database_owner": "lender", "database_owner_passwd": "p@ss/word"}
    url = migration_url(Settings.model_validate(where | owner))
    assert (url.username, url.password, url.host, url.database) == ("lender", "p@ss/word", "one", "mo")


def test_neither_means_the_embedded_one() -> None:
    assert Settings().external_database_url is None
    assert Settings().external_migration_database_url is None


def test_secrets_do_not_show() -> None:
    secret = "open-sesame"
    urls = dict.fromkeys(("mo_database_url", "mo_migration_database_url"), f"postgresql://mo:{secret}@one/mo")
    settings = Settings.model_validate({"database_host": "one", "database_passwd": secret, **urls})
    # The URLs are properties that are kept once made.
    made = (settings.external_database_url, settings.external_migration_database_url)
    shown = [repr(settings), str(settings), repr(settings.model_dump()), BaseModel.model_dump_json(settings), repr(made)]
    assert not [text for text in shown if secret in text]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mo_grpc_port", "http"),
        ("mo_http_port", "70000"),
        ("database_port", "-1"),
        ("mo_database_pool_size", "0"),
        ("mo_max_request_bytes", "1k"),
        ("mo_rate_limit_per_address", "-1"),
        ("mo_rate_limit_exempt", "127.0.0.0/8, localhost"),
        ("mo_rate_limit_exempt", "127.0.0.1/8"),
        ("mo_trusted_proxies", "11"),
        ("mo_max_connections", "0"),
        ("mo_hsts_seconds", "-1"),
        ("mo_log_level", "loud"),
        ("mo_log_format", "xml"),
        ("mo_reflection", "perhaps"),
        ("cors_allow_credentials", "maybe"),
        ("mo_shutdown_grace_seconds", "-1"),
        ("mo_database_url", "no url"),
        ("mo_database_url", "mysql://mo@one/mo"),
        ("mo_migration_database_url", "no url"),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({name: value})
    assert [problem["loc"] for problem in caught.value.errors()] == [(name,)]


def test_wrong_values_end_the_command_with_a_line_each_that_names_them_and_shows_no_secret(tmp_path: Path) -> None:
    wrong = {"MO_GRPC_PORT": "http", "MO_DATABASE_URL": "hunter2 is no url"}
    done = run_cli(settings_environment(tmp_path, **wrong), "migrate", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(line.split(": ")[0] for line in done.stderr.splitlines()) == ["MO_DATABASE_URL", "MO_GRPC_PORT"]
    assert "hunter2" not in done.stderr


MISSPELT = {
    "MO_HTPP_PORT": "do you mean MO_HTTP_PORT?",
    "MO_LOGLEVEL": "do you mean MO_LOG_LEVEL?",
    "MO_ZZZ": "env.example lists all settings.",
    "DATABASE_PASSWORD": "do you mean DATABASE_PASSWD?",
}


@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_a_name_that_is_no_setting_is_warned_of_with_the_nearest_that_is(tmp_path: Path, place: str) -> None:
    in_environment = dict.fromkeys(MISSPELT, "hush-hush") if place == "the environment" else {}
    if not in_environment:
        (tmp_path / ".env").write_text("".join(f"{name}=hush-hush\n" for name in MISSPELT) + "OTHER=1\n", encoding="utf-8")
    environment = settings_environment(tmp_path, MO_DATABASE_URL="", **in_environment) | {"MO_EMPTY": ""}
    done = run_cli(environment, "edge", "--print")
    warned = {said["name"]: said["event"] for said in map(json.loads, done.stderr.splitlines()) if said["level"] == "warning"}
    assert warned.keys() == MISSPELT.keys()
    assert all(warned[name].startswith(f"{name} is no setting") and hint in warned[name] for name, hint in MISSPELT.items())
    assert "hush-hush" not in done.stderr + done.stdout


def test_secrets_may_be_files_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "secret_key").write_text("the-key-of-a-file-which-is-long-enough\n")
    (folder / "mo_database_url").write_text("postgresql://somebody:secret@host/mo\n")
    monkeypatch.setenv("MO_SECRETS_DIR", str(folder))
    monkeypatch.setenv("MO_DATABASE_URL", "postgresql://another:secret@host/mo")
    settings = Settings()
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == "the-key-of-a-file-which-is-long-enough"
    assert settings.external_database_url is not None
    assert settings.external_database_url.username == "another"
