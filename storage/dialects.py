"""What differs by database: each difference a small function, and none of them elsewhere."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import any_, bindparam, case, false, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.models import Base

    Columns = Mapping[InstrumentedAttribute[Any], Sequence[Any]]

_TICK = timedelta(microseconds=1)


def is_one_of(
    column: InstrumentedAttribute[Any], values: Sequence[int] | Sequence[str]
) -> ColumnElement[bool]:
    """Tells whether the column holds one of the values.

    They travel as one array, so that the statement's text, and with it its prepared plan, is the
    same for any number of them.
    """
    return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))


def insert_missing(table: type[Base], columns: Columns) -> Insert:
    """Adds those of the rows whose unique keys are free, in order, and passes over the others.

    Waits for transactions that are adding the same, and passes over what they commit.

    Args:
        table: what is added to.
        columns: the values of each column, all of the same length.
    """
    return insert_rows(table, columns).on_conflict_do_nothing()


def insert_rows(table: type[Base], columns: Columns) -> Insert:
    """Adds rows, in order. The statement's text is the same for any number of them.

    Args:
        table: what is added to.
        columns: the values of each column, all of the same length.
    """
    unnested = (
        func.unnest(bindparam(None, list(values), type_=ARRAY(column.type)))
        for column, values in columns.items()
    )
    return insert(table).from_select(list(columns), select(*unnested))


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


def literal(value: str) -> ColumnElement[str]:
    """A value that is part of the statement's text, where partial indexes can see it."""
    return bindparam(None, value, literal_execute=True)


def row_limit(rows: int) -> ColumnElement[int]:
    """A limit that is part of the statement's text.

    A plan prepared for a limit it does not know expects a tenth of the table, and sorts it.
    """
    return literal_column(str(rows))
