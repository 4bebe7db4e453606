"""The ways into a database, by name, for what holds on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from storage.database import Database
    from storage.sessions import Session


def way_into(db: Database, way: str) -> AbstractAsyncContextManager[Session]:
    """Returns a block of a `transaction`, a `read` or a `snapshot`."""
    if way == "transaction":
        return db.transaction()
    return db.read(snapshot={"read": False, "snapshot": True}[way])
