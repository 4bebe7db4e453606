"""Changes of tables that are in use: for a step to call where Alembic's own would hold up callers.

PostgreSQL makes each outside a transaction, where a step that is killed stays half done: it can be
run again, so a step that calls one does nothing else. MariaDB builds every index online, and SQLite
has one writer at a time as it is.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op

from storage import poolers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_IS_HALF_BUILT = sa.text(
    "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid)"
)


def create_index(
    name: str,
    table: str,
    columns: Sequence[str],
    **options: Any,  # noqa: ANN401 - any option of an index
) -> None:
    """Builds an index while the table is read and written.

    What a build that was killed left of it is dropped and built again; an index that is whole is
    left alone.

    Args:
        name: the index's name, which is nothing else's.
        table: the table's name.
        columns: their names, in the index's order.
        options: as `op.create_index` takes them: `unique`, `postgresql_where`, `postgresql_using`.
    """
    with _outside_a_transaction():
        if _may_be_half_built(name):
            _drop_index(name, table)
        op.create_index(
            name, table, list(columns), if_not_exists=True, postgresql_concurrently=True, **options
        )


def drop_index(name: str, table: str) -> None:
    """Drops an index, if it is there, while the table is read and written.

    Args:
        name: the index's name.
        table: the table's name.
    """
    with _outside_a_transaction():
        _drop_index(name, table)


def _drop_index(name: str, table: str) -> None:
    op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


def _may_be_half_built(name: str) -> bool:
    context = op.get_context()
    if context.dialect.name != "postgresql":
        return False
    if context.as_sql or context.connection is None:
        # A script cannot look: it drops whatever is there.
        return True
    return bool(context.connection.scalar(_IS_HALF_BUILT, {"name": name}))


@contextmanager
def _outside_a_transaction() -> Iterator[None]:
    """Lets the block wait for all transactions that may know the table as it was.

    Nobody waits behind it meanwhile, and stopped halfway it would have to be made again.
    """
    context = op.get_context()
    if context.dialect.name != "postgresql":
        yield
        return
    seconds = context.config.attributes["lock_timeout"] if context.config else 0
    # A pooler's connections are told nothing outside of transactions, so there is no bound to lift.
    is_told = (
        context.as_sql
        or context.connection is None
        or not poolers.is_pooled(context.connection.connection)
    )
    with context.autocommit_block():
        if is_told:
            op.execute("SET lock_timeout = 0")
        yield
        if is_told:
            op.execute(f"SET lock_timeout = '{seconds}s'")
