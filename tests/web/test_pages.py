"""The pages over HTTP: what they are, and what they tell browsers."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import ORIGIN, TLS, Stack, run_cli


@pytest.fixture
def visitor(stack: Stack) -> Iterator[httpx.Client]:
    """Somebody with a browser, and no key."""
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as client:
        yield client


@pytest.mark.parametrize("path", ["/swagger/", "/redoc/"])
def test_a_page_may_load_nothing_from_elsewhere_and_be_framed_by_nobody(visitor: httpx.Client, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert "script-src" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|https?://", answer.text)
    for link in re.findall(r'(?:src|href)="(?!data:)([^"#]+)"', answer.text):
        assert visitor.get(answer.url.join(link), follow_redirects=True).status_code == 200


@pytest.mark.parametrize("path", ["/swagger/", "/redoc/", "/grappelli/login"])
def test_what_a_page_loads_is_compressed_and_kept_for_ever(visitor: httpx.Client, path: str) -> None:
    page = visitor.get(path)
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text.partition("</head>")[0])
    assert len(links) >= 3
    for link in links:
        assert re.search(r"\.[0-9a-f]{16}\.(css|js|svg)$", link), link
        url = page.url.join(link)
        answer = visitor.get(url, headers={"accept-encoding": "br, gzip;q=0.5"})
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "accept-encoding")
        assert answer.headers["content-type"].startswith(("text/css", "text/javascript", "image/svg+xml"))
        plain = visitor.get(url, headers={"accept-encoding": "br, gzip;q=0.0"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content
        assert len(plain.content) < 500 or int(answer.headers["content-length"]) < len(plain.content) * 0.7
        again = visitor.get(url, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        # Under another name, or an older one, there is nothing.
        assert visitor.get(str(url)[:-5] + "x" + str(url)[-5:]).status_code == 404


def test_the_document_is_compressed_and_asked_for_again(visitor: httpx.Client) -> None:
    answer = visitor.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert (answer.headers["cache-control"], answer.headers["content-encoding"]) == ("no-cache", "gzip")
    assert int(answer.headers["content-length"]) < len(answer.content) / 4
    assert visitor.get("/openapi.json", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["/swagger", "/redoc"])
def test_a_path_without_its_slash_leads_to_the_page(visitor: httpx.Client, path: str) -> None:
    answer = visitor.get(path)
    assert (answer.status_code, answer.headers["location"]) == (308, f"{path}/")


def test_pages_are_for_no_other_sites_scripts(visitor: httpx.Client) -> None:
    assert "access-control-allow-origin" not in visitor.get("/openapi.json", headers={"origin": ORIGIN}).headers


def test_no_path_leads_out_of_the_assets(visitor: httpx.Client) -> None:
    for path in ("/swagger/assets/../../../../etc/passwd", "/swagger/assets/%2e%2e/%2e%2e/plugins.py", "/swagger/assets/"):
        assert visitor.get(path).status_code in (400, 404)


def test_the_document_names_the_header_of_the_settings(stack: Stack, visitor: httpx.Client) -> None:
    scheme = json.loads(visitor.get("/openapi.json").text)["components"]["securitySchemes"]["apiKey"]
    assert scheme["name"] == "x-api-key"


@pytest.mark.parametrize(
    "paths",
    [
        {"ADMIN_URL": "/same/", "ADMIN_HONEYPOT_URL": "same"},
        {"ADMIN_URL": "/admin/real/"},
        {"ADMIN_HONEYPOT_URL": "/v1/"},
        {"ADMIN_HONEYPOT_URL": "/swagger/honeypot/"},
        {"ADMIN_HONEYPOT_URL": "/"},
        {"ADMIN_URL": "/a b/"},
    ],
)
def test_the_admin_and_the_honeypot_have_paths_of_their_own(stack: Stack, paths: dict[str, str]) -> None:
    done = run_cli(stack.environment | paths, "edge", "--print", check=False)
    assert done.returncode == 2
    assert "ADMIN" in done.stderr
