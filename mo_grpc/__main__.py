"""`python -m mo_grpc`: the same as `mo-grpc`; with `--watch PLAN`, the supervisor that a command becomes."""

import json
import sys
from importlib import import_module

from mo_grpc.process.supervisor import WATCH

SUPERVISORS = {"up": "mo_grpc.run.services", "serve": "mo_grpc.run.workers", "edge": "mo_grpc.edge.envoy"}

if sys.argv[2:3] == [WATCH]:
    supervisor = import_module(SUPERVISORS[sys.argv[1]])
    sys.exit(supervisor.watch(supervisor.Plan(**json.loads(sys.argv[3]))))

from mo_grpc.cli.app import main  # noqa: E402 - nothing of it is needed above

main()
