"""docker-compose.yml without Docker: what each container is told, and its steps, run outside of containers."""

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql

from mo_grpc.config import Settings
from mo_grpc.db import cluster
from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url
from tests import secrets
from tests.conftest import KEY, run_cli
from tests.databases import connect
from tests.repository import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
GIVEN = {
    "SECRET_KEY": "the-key-of-these-containers-which-is-long",
    "DATABASE_OWNER_PASSWD": "own'er %p@ss:word/",
    "DATABASE_PASSWD": "serv'er %p@ss:word/",
}
SERVING = ("grpc", "web", "worker", "audit", "edge-config")


def told(service: str, given: dict[str, str]) -> dict[str, str]:
    """The environment of a container, where `.env` has what is given: https://docs.docker.com/reference/compose-file/interpolation/.

    Raises:
        KeyError: a variable is required and missing.
    """

    def value(found: "re.Match[str]") -> str:
        name, operator, rest = found.groups()
        if given.get(name):
            return given[name]
        if operator == ":?":
            raise KeyError(name)
        return str(rest)

    container = COMPOSE["services"][service]
    files = given if container.get("env_file") == [{"path": ".env", "required": False}] else {}
    set_here = container.get("environment", {}).items()
    return files | {name: re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, str(text)) for name, text in set_here}


@pytest.mark.parametrize("name", GIVEN)
def test_no_container_starts_without_its_secrets(name: str) -> None:
    def told_to_all() -> None:
        for service in COMPOSE["services"]:
            told(service, GIVEN | {name: ""})

    with pytest.raises(KeyError, match=name):
        told_to_all()


@pytest.mark.parametrize("service", SERVING)
def test_what_serves_is_not_told_the_owners_password(service: str) -> None:
    given = GIVEN | {
        "MO_POSTGRES_PASSWORD": GIVEN["DATABASE_OWNER_PASSWD"],
        "MO_MIGRATION_DATABASE_URL": "postgresql://mo:x@h/mo",
    }
    environment = told(service, given)
    assert GIVEN["DATABASE_OWNER_PASSWD"] not in environment.values()
    settings = Settings.model_validate({name.lower(): text for name, text in environment.items() if text})
    url = settings.external_database_url
    assert url is not None
    assert (url.username, url.password, url.host) == ("mo_service", GIVEN["DATABASE_PASSWD"], "postgres")
    assert settings.external_migration_database_url == url


def test_every_setting_may_stand_in_env() -> None:
    for service in (*SERVING, "migrate"):
        assert told(service, GIVEN | {"MO_LOG_LEVEL": "debug"})["MO_LOG_LEVEL"] == "debug"


def test_every_setting_that_it_names_exists_and_so_does_every_file() -> None:
    for service in (*SERVING, "migrate"):
        names = COMPOSE["services"][service]["environment"]
        assert {name.lower() for name in names} - {"mo_postgres_password"} <= Settings.model_fields.keys()
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("service", [*SERVING, "migrate"])
def test_no_container_of_ours_may_more_than_it_needs(service: str) -> None:
    container = COMPOSE["services"][service]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]


def test_its_prometheus_finds_the_containers_and_takes_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "prometheus" / "compose.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus", str(ROOT / "deploy" / "prometheus")))
    subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], check=True, capture_output=True)
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in yaml.safe_load(text)["scrape_configs"]}
    assert {*jobs["mo-grpc"]["names"], *jobs["mo-edge"]["names"]} <= COMPOSE["services"].keys()
    told_to = told("grpc", GIVEN)
    assert str(jobs["mo-grpc"]["port"]) == told_to["MO_METRICS_PORT"]
    assert str(jobs["mo-edge"]["port"]) == told_to["MO_EDGE_METRICS_PORT"]


def test_its_steps_lead_to_two_logins_of_which_neither_is_the_superuser(tmp_path: Path) -> None:
    for secret in GIVEN.values():
        secrets.used(secret)
    with EmbeddedPostgres(tmp_path / "db"):
        url = embedded_url(tmp_path / "db", "postgres")
        with connect(url.set(database="postgres"), autocommit=True) as superuser:
            superuser.execute("DROP DATABASE mo")
            superuser.execute("DROP ROLE mo")
        folder = str(url.query["host"])
        image = {"POSTGRES_USER": "postgres", "PGHOST": folder, "PGPASSWORD": str(url.password)}
        path = f"{cluster.programs()}:{os.environ['PATH']}"
        script = ["sh", str(ROOT / "docker" / "postgres-init.sh")]
        subprocess.run(script, env=told("postgres", GIVEN) | image | {"PATH": path}, check=True)

        here = {"DATABASE_HOST": folder, "MO_DATA_DIR": str(tmp_path / "container"), "PATH": os.environ["PATH"]}
        run_cli(told("migrate", GIVEN) | here, "migrate")
        made = run_cli(told("grpc", GIVEN) | here, "keys", "create", "first")
        assert KEY.fullmatch(made.stdout.strip())
        with connect(url) as superuser:
            roles = "SELECT rolname, rolsuper FROM pg_roles WHERE rolcanlogin AND rolname <> 'postgres' ORDER BY 1"
            assert superuser.execute(roles).fetchall() == [("mo", False), ("mo_service", False)]
            may = "SELECT pg_has_role('mo_service', 'mo', 'MEMBER')"
            assert superuser.execute(may).fetchone() == (False,)

        # A volume of an earlier version has a service that does not log in by itself.
        with connect(url, autocommit=True) as superuser:
            superuser.execute(sql.SQL("ALTER ROLE mo_service NOLOGIN PASSWORD NULL"))
        run_cli(told("migrate", GIVEN) | here, "migrate")
        assert "first" in run_cli(told("grpc", GIVEN) | here, "keys", "list").stdout
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host=folder, user="mo_service", password=GIVEN["DATABASE_OWNER_PASSWD"], dbname="mo")
