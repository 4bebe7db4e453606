"""What the steps of the history are made of, on every database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

from storage.dialects.types import MOMENT, clock

if TYPE_CHECKING:
    from collections.abc import Sequence


def moment(name: str) -> sa.Column[object]:
    """Returns a column of a moment by the database's clock."""
    return sa.Column(name, MOMENT, server_default=clock(), nullable=False)


def execute(
    *, postgresql: Sequence[str] = (), mysql: Sequence[str] = (), sqlite: Sequence[str] = ()
) -> None:
    """Runs the statements that are this database's."""
    spelt = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}
    for statement in spelt[op.get_context().dialect.name]:
        op.execute(statement)


def create_search_index(name: str, table: str, *columns: str) -> None:
    """Makes the index by which PostgreSQL finds a part of a text; the others have none."""
    if op.get_context().dialect.name == "postgresql":
        op.create_index(
            name,
            table,
            list(columns),
            postgresql_using="gin",
            postgresql_ops=dict.fromkeys(columns, "gin_trgm_ops"),
        )
