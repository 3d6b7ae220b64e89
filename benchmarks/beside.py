"""Another worker over the database of the benchmarks, which differs from the service's in one thing."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

import grpc

from benchmarks.distance import free_port
from benchmarks.measure import Load
from mo_grpc.db.embedded import embedded_url
from mo_grpc.process.children import spawn, stop


class Worker(NamedTuple):
    """Where it listens, and its process."""

    address: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def beside(load: Load, name: str, program: Sequence[str] = ("-m", "mo_grpc"), **settings: str) -> Iterator[Worker]:
    """Run a worker by a program of Python's and with some settings of its own."""
    folder = load.stack.folder / name
    folder.mkdir()
    # One database, one key: another worker of the same service.
    shutil.copy(load.stack.folder / "data" / "secret.key", folder)
    url = embedded_url(load.stack.folder / "data").render_as_string(hide_password=False)
    own = {"MO_DATABASE_URL": url, "MO_DATA_DIR": str(folder), "MO_GRPC_PORT": str(free_port())}
    with patch.dict(os.environ, own | settings):
        process = spawn([sys.executable, *program, "serve", "--worker", "0"])
    try:
        address = f"unix:{folder}/run/grpc-0.sock"
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield Worker(address, process)
    finally:
        stop(process, signal.SIGTERM, 30)
