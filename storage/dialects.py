"""What differs by database: each difference a small function, and none of them elsewhere."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from asyncpg import PostgresError
from sqlalchemy import (
    DateTime,
    any_,
    bindparam,
    case,
    cast,
    delete,
    false,
    func,
    inspect,
    literal_column,
    or_,
    select,
)
from sqlalchemy import column as sql_column
from sqlalchemy.dialects.postgresql import ARRAY, Insert, array, insert
from sqlalchemy.orm import aliased

from storage.errors import of_sqlstate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Delete, Select, Update
    from sqlalchemy import Insert as AnyInsert
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.sql.selectable import TableValuedAlias
    from sqlalchemy.types import TypeEngine

    from storage.database import Transaction
    from storage.models import Base

    Dml = AnyInsert | Update | Delete

_TICK = timedelta(microseconds=1)


def is_one_of(
    column: InstrumentedAttribute[Any], values: Sequence[int] | Sequence[str]
) -> ColumnElement[bool]:
    """Tells whether the column holds one of the values.

    They travel as one array, so that the statement's text, and with it its prepared plan, is the
    same for any number of them.
    """
    return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))


def is_looked_up(
    column: InstrumentedAttribute[Any], other: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """Tells whether the column holds what another table's does, by looking each of these up.

    `=` would let the tables be merged instead: to find out that there is one row, that reads all of
    them.
    """
    return column == any_(array([other]))


def is_walked_from(
    column: InstrumentedAttribute[Any], other: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """Tells whether the column holds what another table's does, for the first few rows in order.

    To be sorted by the column first. By `=` the planner expects the rows that a value has on
    average, and sorts all that the commonest has; a range it takes for long enough to walk.
    """
    return column.between(other, other)


def insert_missing(
    table: type[Base], columns: Mapping[InstrumentedAttribute[Any], Sequence[Any]]
) -> Insert:
    """Adds those of the rows whose unique keys are free, in order, and passes over the others.

    Waits for transactions that are adding the same, and passes over what they commit. The
    statement's text is the same for any number of rows.

    Args:
        table: what is added to.
        columns: the values of each column, all of the same length.
    """
    unnested = (
        func.unnest(bindparam(None, list(values), type_=ARRAY(column.type)))
        for column, values in columns.items()
    )
    return insert(table).from_select(list(columns), select(*unnested)).on_conflict_do_nothing()


def delete_batch(
    table: type[Base],
    where: ColumnElement[bool],
    order: InstrumentedAttribute[Any],
    rows: int,
) -> Delete:
    """Deletes the first of the rows that match, and passes over those that somebody has locked.

    Args:
        table: what is deleted from.
        where: which rows may go.
        order: which of them go first.
        rows: how many go at most.
    """
    key = inspect(table).primary_key
    # A statement of its own, so that it runs once: PostgreSQL may run a subquery any number of
    # times, and each time locks other rows.
    first = (
        select(*key).where(where).order_by(order).limit(rows).with_for_update(skip_locked=True)
    ).cte("first")
    return delete(table).where(*(column == first.c[column.name] for column in key))


async def reserve_ids(tx: Transaction, column: InstrumentedAttribute[int], count: int) -> list[int]:
    """Takes ids that the database will give to nobody else, in rising order."""
    table = column.class_.__tablename__
    numbers = select(func.nextval(func.pg_get_serial_sequence(table, column.key))).select_from(
        func.generate_series(1, count)
    )
    return sorted((await tx.execute(numbers)).scalars())


async def copy_in(
    tx: Transaction,
    columns: Sequence[InstrumentedAttribute[Any]],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Adds many rows at a time, by COPY: ten times as fast as by INSERT.

    Args:
        tx: a transaction that has run a statement already.
        columns: of one table.
        rows: a value for each column.

    Raises:
        StorageError: as for any statement.
    """
    driver = await tx.driver_connection()
    try:
        await driver.copy_records_to_table(
            columns[0].class_.__tablename__,
            records=rows,
            columns=[column.key for column in columns],
        )
    except PostgresError as error:
        raise of_sqlstate(error.sqlstate or "", error.constraint_name or "") from None


def is_one_of_given(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """Tells, as `is_one_of`, whether the column holds one of the values of a named parameter."""
    return column == any_(_of_any_length(name, column.type))


def rows_given(name: str, **columns: type[TypeEngine[Any]]) -> TableValuedAlias:
    """Rows that are parameters: one array for each column, named `name_column`.

    The statement's text is the same for any number of rows. They come in the order given.
    """
    arrays = [_of_any_length(f"{name}_{column}", kind()) for column, kind in columns.items()]
    typed = [sql_column(column, kind) for column, kind in columns.items()]
    return func.unnest(*arrays).table_valued(*typed).render_derived(name=name)


def _of_any_length(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    """An array that is a parameter, whose length the planner does not look at.

    A prepared statement whose plan depends on the length is planned each time, which takes a third
    of PostgreSQL's time for a transfer on a connection of its own.
    """
    given = select(bindparam(name, type_=ARRAY(kind))).scalar_subquery()
    # ANY would take a bare subquery for the rows that it selects.
    return cast(given, ARRAY(kind))


def together(result: Select[*tuple[Any, ...]], *changes: Dml) -> Select[*tuple[Any, ...]]:
    """Returns the statement that makes changes and selects from what some of them return.

    All of them see the database as it was before: no change sees another's but by what it returns.
    """
    return result.add_cte(*(change.cte() for change in changes))


def changed_at(
    updated_at: InstrumentedAttribute[datetime],
    changes: Mapping[InstrumentedAttribute[Any], object],
) -> ColumnElement[datetime]:
    """The moment of this change: the database's clock if any value differs, else what it was.

    It always moves forward, also when the clock does not, since etags are made of it.
    """
    differs = or_(false(), *(column.is_distinct_from(value) for column, value in changes.items()))
    return case((differs, moment_after(updated_at)), else_=updated_at)


def moment_after(updated_at: InstrumentedAttribute[datetime]) -> ColumnElement[datetime]:
    """The database's clock, or the first moment after `updated_at` if the clock is behind it."""
    return func.greatest(func.clock_timestamp(), updated_at + bindparam(None, _TICK))


def later_of(
    one: InstrumentedAttribute[datetime], other: ColumnElement[datetime]
) -> ColumnElement[datetime]:
    """The later of two moments."""
    return func.greatest(one, other)


def present_moment() -> ColumnElement[datetime]:
    """The database's clock, the same all through a statement, which begins after every lock held.

    `now()` is when the transaction began, and it may have waited for its locks since.
    """
    return func.statement_timestamp(type_=DateTime(timezone=True))


def literal(value: str) -> ColumnElement[str]:
    """A value that is part of the statement's text, where partial indexes can see it."""
    return bindparam(None, value, literal_execute=True)


def planned_for_its_values(table: type[Base]) -> ColumnElement[bool]:
    """A condition that always holds, for statements whose best plan depends on their values.

    PostgreSQL plans a prepared statement once for any values if it expects no higher cost of that
    than of the plans for the values so far. A plan for any search reads the whole table for a rare
    one. Known to be true, the parameter makes the count of the table vanish; as one of any value
    it leaves the count in the estimate, which makes that plan the dearest. The count never runs.
    """
    rows = select(func.count()).select_from(aliased(table)).scalar_subquery()
    return or_(bindparam(None, value=True), rows.is_not(None))


def row_limit(rows: int) -> ColumnElement[int]:
    """A limit that is part of the statement's text.

    A plan prepared for a limit it does not know expects a tenth of the table, and sorts it.
    """
    return literal_column(str(rows))
