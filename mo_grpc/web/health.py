"""How the web server is, for whoever starts and stops it; Envoy answers these paths itself, and has no route to these."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError

PATIENCE = 2.0
"""Seconds that the gRPC server may take to answer."""

_NOTHING = text("SELECT")


def routes(database: Database) -> list[Route]:
    """`/healthz`, which is answered while the process lives, and `/readyz`, which needs what pages need."""

    async def alive(_: Request) -> PlainTextResponse:
        return _answer([])

    async def ready(request: Request) -> PlainTextResponse:
        parts = {"database": _database(database), "gRPC server": _server(request.app.state.channel)}
        return _answer([name for name, there in parts.items() if not await there])

    return [Route("/healthz", alive), Route("/readyz", ready)]


def _answer(missing: list[str]) -> PlainTextResponse:
    content = f"not ready: {', '.join(missing)}\n" if missing else "ok\n"
    return PlainTextResponse(content, 503 if missing else 200, {"cache-control": "no-store"})


async def _database(database: Database) -> bool:
    try:
        await database.read(lambda connection: connection.execute(_NOTHING))
    except ServiceError:
        return False
    return True


async def _server(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
