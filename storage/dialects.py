"""What differs by database: each difference a small function, and none of them elsewhere."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, any_, bindparam, case, false, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import aliased

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.models import Base

_TICK = timedelta(microseconds=1)


def is_one_of(column: InstrumentedAttribute[int], ids: Sequence[int]) -> ColumnElement[bool]:
    """Tells whether the column holds one of the ids.

    The ids travel as one array, so that the statement's text, and with it its prepared plan, is
    the same for any number of them.
    """
    return column == any_(bindparam(None, list(ids), type_=ARRAY(BigInteger)))


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
