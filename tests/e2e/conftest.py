"""An edge before a service that answers what a test wants."""

from collections.abc import Iterator

import pytest

from tests.e2e.edges import Upstream, bare_edge


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream().serving() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def direct(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An edge without proxies before it."""
    with bare_edge(tmp_path_factory.mktemp("direct"), upstream) as url:
        yield url
