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


def add_row_for_each_user(table: str) -> None:
    """Gives each user a row of a table, in the table's own defaults.

    A trigger that is there already does so for those who come meanwhile, and what is run again
    finds those whom it was run for before: whoever has a row is passed over.
    """
    op.execute(
        f"INSERT INTO {table} (user_id) SELECT id FROM users"  # noqa: S608 - a step's own words
        f" WHERE id NOT IN (SELECT user_id FROM {table})"
    )


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
