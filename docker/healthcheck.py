"""Exit with 0 if the gRPC server of this container says that it is SERVING."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mo_grpc.config import Settings


def main() -> int:
    """Ask once."""
    settings = Settings()
    with grpc.insecure_channel(f"localhost:{settings.mo_grpc_port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=4)
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
            # With MO_HEALTH=false the server answers this.
            return 0 if error.code() is grpc.StatusCode.UNIMPLEMENTED else 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
