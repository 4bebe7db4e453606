"""The ways into a database, by name, for what holds on each of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from storage.database import Database
    from storage.sessions import Session


def way_into(db: Database, way: str) -> AbstractAsyncContextManager[Session]:
    """Returns a block of a `transaction`, a `read` or a `snapshot`."""
    ways: dict[str, Callable[[], AbstractAsyncContextManager[Session]]] = {
        "transaction": db.transaction,
        "read": db.read,
        "snapshot": partial(db.read, snapshot=True),
    }
    return ways[way]()
