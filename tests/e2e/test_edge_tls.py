"""TLS at the edge: what it speaks and what not, whom it lets in, and how its certificate changes."""

import http.client
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from mo.customers.v1 import customers_pb2, customers_pb2_grpc

from mo_grpc import edge
from mo_grpc.config import Settings
from mo_grpc.edge_process import envoy_path
from tests.conftest import TLS, free_port
from tests.e2e.edges import EDGE, Upstream, edge_environment, started, wait_until

CA = trustme.CA()
STRANGER = trustme.CA()
REQUEST = customers_pb2.GetCustomerRequest(external_id="c-1")


def write(certificate: trustme.LeafCert, folder: Path, name: str = "edge") -> dict[str, Path]:
    """Write a certificate as a renewal does: in a file of its own, which then takes the other's place."""
    paths = {"mo_tls_certificate": folder / f"{name}.crt", "mo_tls_key": folder / f"{name}.key"}
    blobs = (b"".join(blob.bytes() for blob in certificate.cert_chain_pems), certificate.private_key_pem.bytes())
    for path, content in zip(paths.values(), blobs, strict=True):
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.replace(path)
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
def tls_edge(folder: Path, upstream: Upstream, context: ssl.SSLContext, **settings: object) -> Iterator[int]:
    """Run Envoy with the configuration that `--print` shows, and give its port."""
    port = free_port()
    where = dict(zip(("mo_edge_upstream_host", "mo_grpc_port"), upstream.address.split(":"), strict=True))
    ours = {**where, "mo_http_port": port, "mo_health": False, **write(CA.issue_cert("localhost"), folder)}
    (folder / "envoy.yaml").write_text(edge.render(Settings.model_validate(ours | settings)), encoding="utf-8")
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
    settings = {"mo_tls_client_ca": folder / "clients.crt", "mo_access_log": str(access_log)}
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
    wait_until(lambda: "CN=partner-x" in access_log.read_text(), "the log")


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
    settings = {"mo_tls_client_ca": tmp_path / "clients.crt", "mo_tls_client_required": False}
    with tls_edge(tmp_path, upstream, client(), **settings) as port:
        assert get(port, client(own=CA.issue_cert("partner"))).status_code == 200
        with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.WriteError)):
            get(port, client(own=STRANGER.issue_cert("partner")))


# --- A change of certificate -----------------------------------------------------------------------------------------------


def test_a_renewed_certificate_and_a_new_client_ca_are_taken_up_while_it_runs(upstream: Upstream, tmp_path: Path) -> None:
    old_ca, new_ca = trustme.CA(), trustme.CA()
    clients = tmp_path / "clients.crt"
    old_ca.cert_pem.write_to_path(clients)
    paths = write(old_ca.issue_cert("localhost"), tmp_path)
    settings = {name.upper(): str(path) for name, path in paths.items()} | {"MO_TLS_CLIENT_CA": str(clients)}
    environment = edge_environment(tmp_path / "data", upstream.address, MO_HEALTH="false", **settings)
    port = int(environment["MO_HTTP_PORT"])
    before = client(old_ca, old_ca.issue_cert("partner"))
    with started(EDGE, environment, lambda: answers(port, before)) as process:
        write(new_ca.issue_cert("localhost"), tmp_path)
        new_ca.cert_pem.write_to_path(tmp_path / "clients.new")
        (tmp_path / "clients.new").replace(clients)
        wait_until(lambda: answers(port, client(new_ca, new_ca.issue_cert("partner"))), "the new ones")
        wait_until(lambda: not answers(port, client(new_ca, old_ca.issue_cert("partner"))), "not the old one")
        assert process.poll() is None


def test_a_certificate_that_is_not_there_is_told(upstream: Upstream, tmp_path: Path) -> None:
    settings = {"MO_TLS_CERTIFICATE": str(tmp_path / "no.crt"), "MO_TLS_KEY": str(tmp_path / "no.key")}
    environment = edge_environment(tmp_path, upstream.address, **settings)
    done = subprocess.run(EDGE, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "no.crt" in done.stderr
