"""The RPCs of customers, loans and payments, from the protos' descriptors, named as doors take them: `loans.ActivateLoan`."""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from mo_grpc.rpc.access import ACCESS, SERVICES

_RPCS: dict[str, MethodDescriptor] = {
    f"{domain}.{rpc.name}": rpc
    for service in SERVICES
    if (domain := service.split(".")[1]) in ("customers", "loans", "payments")
    for rpc in descriptor_pool.Default().FindServiceByName(service).methods
}

MUTATIONS = [
    name for name, rpc in _RPCS.items() if ACCESS[f"/{rpc.containing_service.full_name}/{rpc.name}"].endswith(":write")
]
"""Those that change something."""

_OPTIONS = {"validate_only", "preview_token", "as_of"}

BY_ID = [name for name, rpc in _RPCS.items() if {field.name for field in rpc.input_type.fields} - _OPTIONS == {"external_id"}]
"""Those that take an `external_id`, and options, and nothing else."""
