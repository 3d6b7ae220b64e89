"""Puts each mutant into a copy of the service, and looks which check finds it: `make mutation`.

First random histories, then concurrent ones, then the tests of the mutant's own domain. Prints a line for each mutant, and the
score. `docs/proofs.md` has the last result, and says of each survivor why it does no harm.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc
from sqlalchemy import URL

from mo_grpc.db.embedded import SERVICE_ROLE, EmbeddedPostgres, embedded_url
from tests.commands import COMMANDS, OTHER_COPY
from tests.conftest import KEY, free_port, run_cli, settings_environment
from tests.databases import as_text, connect, fresh_database
from tests.doors import Door, GrpcDoor
from tests.model import calls
from tests.model.crowd import Crowd
from tests.model.laboratory import CALLERS, CLOCK, Laboratory, serves
from tests.model.linear import assert_explained
from tests.model.machine import Histories
from tests.model.mutants import Mutant, mutants
from tests.repository import ROOT
from tests.waiting import TO_START, eventually

TESTS = {
    "customers": "customers journal/test_as_of.py auth/api_keys/test_bound_keys.py imports/test_import_files.py",
    "loans": "loans journal/test_as_of.py auth/api_keys/test_bound_keys.py test_concurrency.py",
    "payments": "payments journal/test_as_of.py auth/api_keys/test_bound_keys.py statements test_concurrency.py",
    "idempotency": "idempotency auth/api_keys/test_api_key_service.py process test_previews.py",
    "journal": "journal test_previews.py payments/test_explanations.py statements",
    "db": "db/test_coalescing.py db/test_cancelled.py test_concurrency.py faults/test_locks.py",
}
"""The tests that a mutant of each package meets at last."""

MODULES = (
    *(
        f"{domain}/{name}"
        for domain in ("customers", "loans", "payments", "idempotency", "journal")
        for name in ("rules", "store")
    ),
    "customers/accounts",
    "customers/debt",
    "journal/previews",
    "db/rows",
    "db/coalescing",
)
_REAL_CLOCK = """
    CREATE OR REPLACE FUNCTION mo_clock() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp()
"""


@dataclass
class Mutated:
    """Two servers with the fault, over a database of their own."""

    laboratory: Laboratory
    channels: list[grpc.Channel]
    api_key: str

    @contextmanager
    def door(self, kind: str) -> Iterator[Door]:
        yield GrpcDoor(self.channels[kind == "rest"], (("x-api-key", self.api_key),), 5)

    def wait_until_ready(self) -> None:
        raise AssertionError("a call got no answer")

    def settled(self) -> bool:
        return self.laboratory.settled()


class Runner:
    """A copy of the repository, and a PostgreSQL whose database has the schema and two API keys."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder / "copy"
        names = ["mo_grpc", "generated", "tests", "migrations", "protos", "envoy", "docs", "deploy", "pyproject.toml"]
        for name in names:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, self._in_copy(name))
        self.data_dir = folder / "data"
        self.environment = settings_environment(self.data_dir)
        self.keys: list[str] = []

    def _in_copy(self, name: str) -> Path:
        self.copy.mkdir(exist_ok=True)
        return self.copy / name

    def prepare(self) -> None:
        run_cli(self.environment, "migrate")
        for caller in CALLERS:
            self.keys += KEY.findall(run_cli(self.environment, "keys", "create", caller).stdout)
        with connect(embedded_url(self.data_dir), autocommit=True) as connection:
            connection.execute(CLOCK)

    @contextmanager
    def with_fault(self, module: str, mutant: Mutant) -> Iterator[None]:
        """Put a mutant into the copy, for a while."""
        path = self.copy / "mo_grpc" / f"{module}.py"
        before = path.read_text(encoding="utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        path.write_text(mutant.source, encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")

    @contextmanager
    def started(self) -> Iterator[Mutated]:
        """Two servers of the copy."""
        with ExitStack() as stay, tempfile.TemporaryDirectory() as folder:
            url = stay.enter_context(fresh_database(self.data_dir, "mo"))
            connection = stay.enter_context(connect(url, autocommit=True))
            channels = [stay.enter_context(self._server(url, Path(folder) / str(number))) for number in range(2)]
            doors: dict[tuple[str, str], Door] = {
                (kind, caller): GrpcDoor(channel, (("x-api-key", key),), 5)
                for kind, channel in zip(("grpc", "rest"), channels, strict=True)
                for caller, key in zip(CALLERS, self.keys, strict=True)
            }
            yield Mutated(Laboratory(url, doors, connection), channels, self.keys[0])

    @contextmanager
    def _server(self, database: URL, folder: Path) -> Iterator[grpc.Channel]:
        folder.mkdir()
        url: URL = embedded_url(self.data_dir, SERVICE_ROLE).set(database=database.database)
        own = {"MO_DATABASE_URL": as_text(url), "MO_DATA_DIR": str(folder), "MO_GRPC_PORT": str(free_port())}
        environment = self.environment | own | {OTHER_COPY: str(self.copy)}
        with (folder / "log").open("wb") as log, grpc.insecure_channel(f"127.0.0.1:{own['MO_GRPC_PORT']}") as channel:
            process = COMMANDS.start_beside(environment, "serve", "--worker", "0", stderr=log)
            try:
                eventually(lambda: process.poll() is not None or serves(channel), TO_START)
                assert process.poll() is None, "it has ended"
                yield channel
            finally:
                process.kill()
                process.wait()

    def found_by(self) -> str:
        """Which histories find the fault that is in the copy now; empty if none does."""
        try:
            with self.started() as mutated:
                if not _passes(lambda: random_histories(mutated)):
                    return "random histories"
                if not _passes(lambda: concurrent_histories(mutated)):
                    return "concurrent histories"
        except Exception:
            return "does not start"
        return ""

    def failed_test(self, module: str) -> str:
        """The first test of the module's domain that fails with the fault that is in the copy now; empty if none does."""
        tests = [f"tests/{name}" for name in TESTS[module.split("/")[0]].split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-cov", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"PYTHONPATH": f"{self.copy}:{self.copy}/generated", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=self.copy, env=environment, capture_output=True, text=True, timeout=900, check=False)
        failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if failed else ""


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    return True


def random_histories(mutated: Mutated) -> None:
    """The tour, and ten histories."""
    Histories.laboratory = mutated.laboratory
    tour = Histories()
    tour.begin("300", "20")
    for call in calls.outdated():
        tour.preview_and_do(call, "", "c0")
    for call in calls.tour():
        tour.make(call)
    tour.teardown()
    rng = Random(1)  # noqa: S311 - not a secret
    for _ in range(10):
        Histories().walk(rng, 40)


def concurrent_histories(mutated: Mutated) -> None:
    """Twelve histories of clients that call both servers."""
    mutated.laboratory.connection.execute(_REAL_CLOCK)
    rng = Random(1)  # noqa: S311 - not a secret
    for number in range(12):
        crowd = Crowd(mutated, f"m{number}", rng)
        crowd.run(None)
        for customer in crowd.customers:
            assert_explained(crowd.of(customer))


def main(wanted: list[str]) -> None:
    """Try all mutants of all modules, or those of the modules that are named, or `module:number`."""
    found: Counter[str] = Counter()
    left: list[tuple[str, str, Mutant]] = []
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        with EmbeddedPostgres(runner.data_dir):
            runner.prepare()
            for module, number, mutant in all_mutants():
                if wanted and not {module, f"{module}:{number}"} & {*wanted}:
                    continue
                begin = time.monotonic()
                with runner.with_fault(module, mutant):
                    finder = runner.found_by()
                name = f"{module}.py:{mutant.line} ({number}) {mutant.fault}"
                print(f"{time.monotonic() - begin:6.1f} s  {finder or 'no history':20}  {name}", flush=True)
                if finder:
                    found[finder] += 1
                else:
                    left.append((name, module, mutant))
        for name, module, mutant in left:
            with runner.with_fault(module, mutant):
                finder = runner.failed_test(module)
            print(f"{finder or 'SURVIVED'}  {name}", flush=True)
            found["the tests of the domain" if finder else "survived"] += 1
    COMMANDS.end()
    print(f"{sum(found.values())} mutants: {dict(found)}")


def all_mutants() -> Iterator[tuple[str, int, Mutant]]:
    for module in MODULES:
        source = (ROOT / "mo_grpc" / f"{module}.py").read_text(encoding="utf-8")
        yield from ((module, number, mutant) for number, mutant in enumerate(mutants(source)))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(sys.argv[1:])
