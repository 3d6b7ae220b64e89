"""What the pages of one customer, loan or payment begin with: finding it."""

from collections.abc import Mapping
from typing import Any

from mo_grpc.db.engine import Database
from mo_grpc.formats import is_external_id
from mo_grpc.web.admin.context import NotHereError, RequestContext


async def find_one(database: Database, context: RequestContext, find: Any, kind: str) -> Mapping[str, Any]:
    """What the address names.

    Raises:
        NotHereError: there is no such thing.
    """
    external_id = id_of(context)
    found: Mapping[str, Any] | None = await database.read(lambda c: find(c, external_id))
    if found is None:
        raise NotHereError(f"There is no {kind} {external_id}.")
    return found


def id_of(context: RequestContext) -> str:
    """The id in the address.

    Raises:
        NotHereError: it is no id.
    """
    external_id = str(context.request.path_params["external_id"])
    if not is_external_id(external_id):
        raise NotHereError("There is nothing with this id.")
    return external_id
