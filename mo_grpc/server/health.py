"""The gRPC health protocol, version 1 (github.com/grpc/grpc, doc/health-checking.md).

Unlike the library's servicer it ends its watches when the server does, and knows when the edge has noticed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health_pb2

from mo_grpc.errors import Stopping
from mo_grpc.rpc.context import Context

Response = health_pb2.HealthCheckResponse
SERVING = Response.SERVING
NOT_SERVING = Response.NOT_SERVING

READINESS, LIVENESS, STARTUP = "readiness", "liveness", "startup"
"""The names of what Kubernetes asks apart."""

_EDGE = "Envoy/HC"
"""What Envoy's health checks call themselves (`user-agent`)."""

NOTICED = 3
"""This check comes after Envoy has heard NOT_SERVING often enough to send no more calls: one time less, the
`unhealthy_threshold` in envoy/envoy.yaml.j2."""

SILENCE = 0.6
"""Seconds without a check after which there is no Envoy: twice the `interval` there, and a margin."""


class HealthServicer:
    """Says how the server is. It is ready (""; `readiness`; and each service) while calls can be served.

    It is alive (`liveness`) for as long as it answers at all, and has started (`startup`) once it was ready.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._ready = dict.fromkeys(("", READINESS, *services), NOT_SERVING)
        self._others = {LIVENESS: SERVING, STARTUP: NOT_SERVING}
        self._failed = self._ending = False
        self._changed = asyncio.Event()
        self._edge = asyncio.Event()

    @property
    def _statuses(self) -> dict[str, health_pb2.HealthCheckResponse.ServingStatus.ValueType]:
        return self._ready | self._others

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        if self._ending and ("user-agent", _EDGE) in (context.invocation_metadata() or ()):
            self._edge.set()
        return Response(status=self._statuses[request.service])

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        statuses = {name: Response(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
            if status != last:
                yield Response(status=status)
            last = status
            if self._ending:
                raise Stopping
            await changed.wait()

    def report(self, *, ready: bool) -> None:
        """Say this from now on, unless it has been failed."""
        if not self._failed:
            self._say(SERVING if ready else NOT_SERVING)
            if ready:
                self._others[STARTUP] = SERVING

    def fail(self) -> None:
        """Say for good that it is not ready. Calls and watches go on."""
        self._failed = True
        self._say(NOT_SERVING)

    async def end(self) -> None:
        """End the watches, and wait until the edge, if there is one, has noticed."""
        self._ending = True
        self._tell_watchers()
        for _ in range(NOTICED):
            self._edge.clear()
            try:
                async with asyncio.timeout(SILENCE):
                    await self._edge.wait()
            except TimeoutError:
                return

    def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        if self._ready[""] != status:
            self._ready = dict.fromkeys(self._ready, status)
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
