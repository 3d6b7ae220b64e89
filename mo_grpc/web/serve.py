"""The web server's process."""

import signal
import sys
from types import FrameType
from typing import NoReturn

import uvicorn

from mo_grpc.config import Settings
from mo_grpc.process.sockets import make_run_dir, web_socket
from mo_grpc.telemetry.folder import WEB
from mo_grpc.telemetry.metrics import measured
from mo_grpc.web.app import make_app

MAX_CONCURRENT = 200
"""Requests at a time; further ones are answered 503."""

KEEP_ALIVE = 90
"""Seconds for which an idle connection stays open: longer than Envoy uses one (`idle_timeout` in envoy/envoy.yaml.j2)."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: on a private socket, or on MO_WEB_HOST where Envoy is on another host."""
    # uvicorn raises the signal again after it has shut down.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if settings.mo_web_host is None:
        make_run_dir(settings)
        web_socket(settings).unlink(missing_ok=True)
    with measured(settings, WEB):
        uvicorn.Server(configuration(settings)).run()


def configuration(settings: Settings) -> uvicorn.Config:
    """The server's settings: application, address, limits."""
    return uvicorn.Config(
        make_app(settings),
        uds=str(web_socket(settings)) if settings.mo_web_host is None else None,
        host=settings.mo_web_host or "127.0.0.1",
        port=settings.mo_web_port,
        # The root logger is set up already, and Envoy writes the access log.
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        limit_concurrency=MAX_CONCURRENT,
        timeout_graceful_shutdown=round(settings.mo_shutdown_grace_seconds),
    )


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)
