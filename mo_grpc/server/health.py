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

_EDGE = "Envoy/HC"
"""What Envoy's health checks call themselves (`user-agent`)."""

NOTICED = 3
"""This check comes after Envoy has heard NOT_SERVING often enough to send no more calls: one time less, the
`unhealthy_threshold` in envoy/envoy.yaml.j2."""

SILENCE = 0.6
"""Seconds without a check after which there is no Envoy: twice the `interval` there, and a margin."""


class HealthServicer:
    """Says of the server ("") and of each service how it is; all share one status."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._status = NOT_SERVING
        self._ending = False
        self._changed = asyncio.Event()
        self._edge = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        if self._ending and ("user-agent", _EDGE) in (context.invocation_metadata() or ()):
            self._edge.set()
        return Response(status=self._status)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        status = Response(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, status))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed = self._changed
            status = self._status if request.service in self._services else Response.SERVICE_UNKNOWN
            if status != last:
                yield Response(status=status)
            last = status
            if self._ending:
                raise Stopping
            await changed.wait()

    def report(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Say this from now on, unless the server ends."""
        if status != self._status and not self._ending:
            self._status = status
            self._tell_watchers()

    async def end(self) -> None:
        """Say NOT_SERVING for good, and wait until the edge, if there is one, has noticed."""
        self._status = NOT_SERVING
        self._ending = True
        self._tell_watchers()
        for _ in range(NOTICED):
            self._edge.clear()
            try:
                async with asyncio.timeout(SILENCE):
                    await self._edge.wait()
            except TimeoutError:
                return

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
