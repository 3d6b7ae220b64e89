"""TLS at the edge: what it speaks and what not, whom it lets in, and how its certificate changes."""

import http.client
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from mo.customers.v1 import customers_pb2, customers_pb2_grpc

from mo_grpc.config import Settings
from mo_grpc.edge import configuration as edge
from mo_grpc.edge.process import envoy_path
from tests.conftest import TLS, free_port
from tests.e2e.edges import EDGE, Upstream, edge_environment, started
from tests.waiting import eventually

CA = trustme.CA()
STRANGER = trustme.CA()
REQUEST = customers_pb2.GetCustomerRequest(external_id="c-1")


def write(certificate: trustme.LeafCert, folder: Path) -> dict[str, Path]:
    """Write a certificate and its key, over others if they are there."""
    paths = {"mo_tls_certificate": folder / "edge.crt", "mo_tls_key": folder / "edge.key"}
    paths["mo_tls_certificate"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    paths["mo_tls_key"].write_bytes(certificate.private_key_pem.bytes())
    return paths


def client(ca: trustme.CA = CA, own: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    if own:
        own.configure_cert(context)
    return context


def get(port: int, context: ssl.SSLContext, path: str = "/v1/customers/c-1") -> httpx.Response:
    return httpx.get(f"https://localhost:{port}{path}", verify=context)


def answers(port: int, context: ssl.SSLContext) -> bool:
    try:
        return get(port, context, "/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream().serving() as upstream:
        yield upstream


@contextmanager
def tls_edge(
    folder: Path, upstream: Upstream, context: ssl.SSLContext, change: tuple[str, str] = ("", ""), **settings: object
) -> Iterator[int]:
    """Run Envoy with the configuration that `--print` shows, and give its port."""
    port = free_port()
    where = dict(zip(("mo_edge_upstream_host", "mo_grpc_port"), upstream.address.split(":"), strict=True))
    ours = {**where, "mo_http_port": port, "mo_health": False, **write(CA.issue_cert("localhost"), folder)}
    config = edge.render(Settings.model_validate(ours | settings))
    assert change[0] in config
    (folder / "envoy.yaml").write_text(config.replace(*change) if change[0] else config, encoding="utf-8")
    options = ["--disable-hot-restart", "-l", "error", "--file-flush-interval-msec", "100"]
    command = [envoy_path(), "-c", str(folder / "envoy.yaml"), *options]
    with started(command, {}, lambda: answers(port, context)):
        yield port


@pytest.fixture(scope="module")
def redirect_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def secure(upstream: Upstream, redirect_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an edge with TLS, and with one beside it without."""
    with tls_edge(tmp_path_factory.mktemp("tls"), upstream, client(), mo_http_redirect_port=redirect_port) as port:
        yield port


@pytest.fixture(scope="module")
def access_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutual") / "access.log"


@pytest.fixture(scope="module")
def mutual(upstream: Upstream, access_log: Path) -> Iterator[int]:
    """The port of an edge that wants certificates of its clients."""
    folder = access_log.parent
    CA.cert_pem.write_to_path(folder / "clients.crt")
    settings: dict[str, Any] = {"mo_tls_client_ca": folder / "clients.crt", "mo_access_log": str(access_log)}
    with tls_edge(folder, upstream, client(own=CA.issue_cert("partner")), **settings) as port:
        yield port


# --- What it speaks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_rest_over_tls(secure: int, version: ssl.TLSVersion) -> None:
    context = client()
    context.minimum_version = context.maximum_version = version
    assert get(secure, context).status_code == 200


def old_client(version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    """A client that would take anything."""
    context = client()
    # OpenSSL's own level would refuse before the edge is asked.
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "ciphers", "alert"),
    [
        (ssl.TLSVersion.TLSv1, "ALL", "alert protocol version"),
        (ssl.TLSVersion.TLSv1_1, "ALL", "alert protocol version"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA", "alert handshake failure"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256", "alert handshake failure"),
    ],
)
def test_old_versions_and_weak_ciphers_are_refused(secure: int, version: ssl.TLSVersion, ciphers: str, alert: str) -> None:
    with pytest.raises(httpx.ConnectError, match=alert):
        get(secure, old_client(version, ciphers))
    assert get(secure, old_client(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256")).status_code == 200


def test_grpc_over_tls_on_the_same_port(secure: int) -> None:
    credentials = grpc.ssl_channel_credentials(CA.cert_pem.bytes())
    with grpc.secure_channel(f"localhost:{secure}", credentials) as channel:
        assert customers_pb2_grpc.CustomerServiceStub(channel).GetCustomer(REQUEST) == customers_pb2.Customer()


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_the_protocol_is_agreed_on_in_the_handshake(secure: int, offered: list[str], chosen: str) -> None:
    context = client()
    context.set_alpn_protocols(offered)
    connection = http.client.HTTPSConnection("localhost", secure, context=context)
    connection.connect()
    assert connection.sock.selected_alpn_protocol() == chosen
    connection.close()


def test_what_does_not_speak_tls_gets_no_answer(secure: int) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{secure}/healthz", verify=TLS)


@pytest.mark.parametrize("path", ["/v1/customers/c-1", "/nope", "/healthz"])
def test_browsers_are_asked_to_come_back_over_tls(secure: int, path: str) -> None:
    assert get(secure, client(), path).headers["strict-transport-security"] == "max-age=31536000"


def test_a_handshake_that_never_ends_is_ended(upstream: Upstream, tmp_path: Path) -> None:
    # Nobody waits ten seconds for a test.
    hurried = ("transport_socket_connect_timeout: 10s", "transport_socket_connect_timeout: 0.2s")
    with tls_edge(tmp_path, upstream, client(), hurried) as port, socket.create_connection(("localhost", port)) as connection:
        connection.settimeout(10)
        connection.sendall(b"\x16\x03\x01")
        assert connection.recv(100) == b""


# --- The port without TLS --------------------------------------------------------------------------------------------------


def test_the_plain_port_leads_browsers_to_the_other(secure: int, redirect_port: int) -> None:
    answer = httpx.get(f"http://localhost:{redirect_port}/admin/?page=2", verify=TLS)
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://localhost:{secure}/admin/?page=2")
    # RFC 6797 §7.2.
    assert "strict-transport-security" not in answer.headers


def test_the_plain_port_refuses_calls_whose_key_has_travelled_in_the_clear(secure: int, redirect_port: int) -> None:
    for headers in ({}, {"content-type": "application/grpc"}):
        answer = httpx.post(f"http://localhost:{redirect_port}/v1/customers", headers=headers, verify=TLS)
        assert "location" not in answer.headers
        assert answer.status_code == 403 or answer.headers["grpc-status"] == "7"
    answer = httpx.get(f"http://localhost:{redirect_port}/v1/customers", headers={"x-api-key": "k"}, verify=TLS)
    assert answer.status_code == 403
    assert answer.json()["details"][0]["reason"] == "MALFORMED_REQUEST"


# --- Certificates of clients -----------------------------------------------------------------------------------------------


def test_a_client_with_a_certificate_is_let_in_and_named_in_the_log(mutual: int, access_log: Path) -> None:
    partner = CA.issue_cert("partner", common_name="partner-x")
    assert get(mutual, client(own=partner)).status_code == 200
    eventually(lambda: "CN=partner-x" in access_log.read_text(), 20)


@pytest.mark.parametrize("own", [None, STRANGER.issue_cert("partner")], ids=["without", "foreign"])
def test_a_client_without_one_or_with_a_strangers_is_kept_out(mutual: int, own: trustme.LeafCert | None) -> None:
    # In TLS 1.3 the refusal comes after the client's side of the handshake is done.
    with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.WriteError)):
        get(mutual, client(own=own))
    files = {}
    if own:
        files = {
            "private_key": own.private_key_pem.bytes(),
            "certificate_chain": b"".join(blob.bytes() for blob in own.cert_chain_pems),
        }
    credentials = grpc.ssl_channel_credentials(CA.cert_pem.bytes(), **files)
    with grpc.secure_channel(f"localhost:{mutual}", credentials) as channel, pytest.raises(grpc.RpcError) as caught:
        customers_pb2_grpc.CustomerServiceStub(channel).GetCustomer(REQUEST)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_where_certificates_are_welcome_but_not_required_a_strangers_is_still_refused(
    upstream: Upstream, tmp_path: Path
) -> None:
    CA.cert_pem.write_to_path(tmp_path / "clients.crt")
    settings: dict[str, Any] = {"mo_tls_client_ca": tmp_path / "clients.crt", "mo_tls_client_required": False}
    with tls_edge(tmp_path, upstream, client(), **settings) as port:
        assert get(port, client(own=CA.issue_cert("partner"))).status_code == 200
        with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.WriteError)):
            get(port, client(own=STRANGER.issue_cert("partner")))


# --- A change of certificate -----------------------------------------------------------------------------------------------


def replaced(new: Path, at: Path) -> None:
    """Move links to the files of a folder to where others are."""
    for file in new.iterdir():
        (at / "link").symlink_to(file)
        (at / "link").replace(at / file.name)


def linked_anew(new: Path, at: Path) -> None:
    for file in new.iterdir():
        (at / file.name).unlink(missing_ok=True)
        (at / file.name).symlink_to(file)


def written_over(new: Path, at: Path) -> None:
    for file in new.iterdir():
        (at / file.name).write_bytes(file.read_bytes())


def test_renewed_certificates_are_taken_up_while_it_runs_however_they_come(upstream: Upstream, tmp_path: Path) -> None:
    def issue(name: str) -> tuple[Path, ssl.SSLContext, ssl.SSLContext]:
        """A folder of files, a client that goes with them, and one that wants the certificate but has none of the clients'."""
        ca, folder = trustme.CA(), tmp_path / name
        folder.mkdir()
        write(ca.issue_cert("localhost"), folder)
        ca.cert_pem.write_to_path(folder / "clients.crt")
        return folder, client(ca, ca.issue_cert("partner")), client(ca, CA.issue_cert("partner"))

    live = tmp_path / "live"
    live.mkdir()
    new, ours, _ = issue("first")
    written_over(new, live)
    files = {"MO_TLS_CERTIFICATE": "edge.crt", "MO_TLS_KEY": "edge.key", "MO_TLS_CLIENT_CA": "clients.crt"}
    settings = {name: str(live / file) for name, file in files.items()}
    environment = edge_environment(tmp_path / "data", upstream.address, MO_HEALTH="false", **settings)
    port = int(environment["MO_HTTP_PORT"])
    log = tmp_path / "stderr"
    with log.open("wb") as stderr, started(EDGE, environment, lambda: answers(port, ours), stderr):
        for come in (written_over, replaced, linked_anew):
            new, ours, strangers = issue(come.__name__)
            come(new, live)
            eventually(partial(answers, port, ours), 20)
            eventually(lambda: not answers(port, strangers), 20)  # noqa: B023
        # Half a renewal, and then one that nobody could use: the last good one stays.
        for number, key in enumerate((new / "no such file", new / "clients.crt"), 1):
            (live / "link").symlink_to(key)
            (live / "link").replace(live / "edge.key")
            eventually(lambda: log.read_text().count("certificates not renewed") == number, 20)  # noqa: B023
            assert answers(port, ours)


def test_a_certificate_that_is_not_there_is_told(upstream: Upstream, tmp_path: Path) -> None:
    settings = {"MO_TLS_CERTIFICATE": str(tmp_path / "no.crt"), "MO_TLS_KEY": str(tmp_path / "no.key")}
    environment = edge_environment(tmp_path, upstream.address, **settings)
    done = subprocess.run(EDGE, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "no.crt" in done.stderr
