"""Expressions that each database spells its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Executable,
    and_,
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
    true,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal

from storage.dialects.types import MOMENT, SUM
from storage.moments import TICK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from sqlalchemy import FromClause, Select, SQLColumnExpression
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.sql.compiler import SQLCompiler

    from storage.models import Base
    from storage.moments import Moment

# SQLite has no clock that tells microseconds: connections of Byline's have this function, which
# tells when the statement began.
CLOCK = "byline_clock"
_LOW = 2**32 - 1


class Spelt(ColumnElement[Any]):
    """An expression in the words of each kind of database."""

    inherit_cache = True
    _traverse_internals = [  # noqa: RUF012 - as SQLAlchemy declares it
        ("spellings", InternalTraversal.dp_string_clauseelement_dict),
        ("type", InternalTraversal.dp_type),
    ]

    def __init__(
        self,
        *,
        postgresql: ColumnElement[Any],
        mysql: ColumnElement[Any],
        sqlite: ColumnElement[Any],
    ) -> None:
        self.spellings = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}
        self.type = postgresql.type

    @property
    def _from_objects(self) -> list[FromClause]:
        return [each for spelling in self.spellings.values() for each in spelling._from_objects]  # noqa: SLF001 - as elements of SQLAlchemy do

    def self_group(self, against: object = None) -> ColumnElement[Any]:  # noqa: ARG002 - the interface
        """Returns itself: what it is compiled to has its parentheses, and is no `= 1`."""
        return self


@compiles(Spelt)
def _spell(element: Spelt, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - the interface
    return f"({compiler.process(element.spellings[compiler.dialect.name], **kw)})"


def is_one_of(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """Tells whether the column holds one of the values of a parameter, which is a list.

    On PostgreSQL they travel as one array, so that the statement's text, and with it its prepared
    plan, is the same for any number of them.
    """
    listed = column.in_(bindparam(name, expanding=True))
    in_array = column == any_(bindparam(name, type_=ARRAY(column.type)))
    return Spelt(postgresql=in_array, mysql=listed, sqlite=listed)


def is_one_of_any_length(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """Tells the same, for a plan that does not depend on the length of the list."""
    listed = column.in_(bindparam(name, expanding=True))
    return Spelt(
        postgresql=column == any_(of_any_length(name, column.type)), mysql=listed, sqlite=listed
    )


def of_any_length(name: str, kind: Any) -> ColumnElement[Any]:  # noqa: ANN401 - any type
    """PostgreSQL: an array that is a parameter, whose length the planner does not look at.

    A prepared statement whose plan depends on the length is planned each time, which takes a third
    of PostgreSQL's time for a transfer on a connection of its own.
    """
    given = select(bindparam(name, type_=ARRAY(kind))).scalar_subquery()
    # ANY would take a bare subquery for the rows that it selects.
    return cast(given, ARRAY(kind))


def is_looked_up(
    column: InstrumentedAttribute[Any], other: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """Tells whether the column holds what another table's does, by looking each of these up.

    PostgreSQL would merge the tables for `=`: to find out that there is one row, that reads all of
    them.
    """
    same = column == other
    return Spelt(postgresql=column == any_(array([other])), mysql=same, sqlite=same)


def looked_up_by(
    index: str, statement: Select[*tuple[Any, ...]], table: type[Base]
) -> Select[*tuple[Any, ...]]:
    """Has a statement that locks rows of a table find them by an index.

    MariaDB may go through a table that is small, and then waits for each row that is locked.
    """
    return statement.with_hint(table, f"FORCE INDEX ({index})", "mysql")


def is_walked_from(
    column: InstrumentedAttribute[Any], other: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """Tells whether the column holds what another table's does, for the first few rows in order.

    To be sorted by the column first. By `=` the planner of PostgreSQL expects the rows that a value
    has on average, and sorts all that the commonest has; a range it takes for long enough to walk.
    """
    return column.between(other, other)


def is_after(
    columns: Sequence[Any], names: Sequence[str], *, descending: bool
) -> ColumnElement[bool]:
    """Tells whether a row comes after another in an order, by one column or by two.

    MariaDB walks no index for a comparison of rows.

    Args:
        columns: what the rows are in the order of.
        names: the parameters that have the other row's values.
        descending: whether the order is.
    """
    marks = [
        bindparam(name, type_=column.type) for column, name in zip(columns, names, strict=True)
    ]
    here, there = tuple_(*columns), tuple_(*marks)
    by_rows = here < there if descending else here > there
    first, last = columns[0], columns[-1]
    beyond = last < marks[-1] if descending else last > marks[-1]
    if len(columns) > 1:
        first_beyond = first < marks[0] if descending else first > marks[0]
        at_least = first <= marks[0] if descending else first >= marks[0]
        beyond = and_(at_least, or_(first_beyond, beyond))
    return Spelt(postgresql=by_rows, mysql=beyond, sqlite=by_rows)


def is_selected(
    column: InstrumentedAttribute[Any], first: Select[*tuple[Any, ...]]
) -> ColumnElement[bool]:
    """Tells whether the column holds what a select with a limit returns.

    MariaDB takes no limit within IN but one level below.
    """
    below = column.in_(select(*first.subquery("first").c))
    return Spelt(postgresql=column.in_(first), mysql=below, sqlite=column.in_(first))


def delete_batch(
    dialect: str,
    table: type[Base],
    where: ColumnElement[bool],
    order: InstrumentedAttribute[Any],
    rows: int,
) -> Executable:
    """Deletes the first of the rows that match, and passes over those that somebody has locked.

    Args:
        dialect: which kind of database.
        table: what is deleted from.
        where: which rows may go.
        order: which of them go first.
        rows: how many go at most.
    """
    key = inspect(table).primary_key
    first = select(*key).where(where).order_by(order).limit(rows).with_for_update(skip_locked=True)
    if dialect == "mysql":
        return _DeleteByKey(table, first)
    # PostgreSQL: a statement of its own, so that it runs once. It may run a subquery any number of
    # times, and each time locks other rows.
    once = first.cte() if dialect == "postgresql" else first.subquery()
    return delete(table).where(tuple_(*key).in_(select(*once.c)))


class _DeleteByKey(Executable, ClauseElement):
    """Deletes rows by the keys that a select finds.

    MariaDB looks each of them up only if it is told to begin with the keys. It would go through the
    whole table for IN, and through a small one for a join, and wait for each row that is locked.
    """

    inherit_cache = False

    def __init__(self, table: type[Base], found: Select[*tuple[Any, ...]]) -> None:
        self.table = table.__tablename__
        self.found = found.subquery("found")


@compiles(_DeleteByKey)
def _delete_by_key(element: _DeleteByKey, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - the interface
    found = compiler.process(element.found, asfrom=True, **kw)
    key = ", ".join(element.found.c.keys())
    return f"DELETE {element.table} FROM {found} STRAIGHT_JOIN {element.table} USING ({key})"


def changed_at(
    updated_at: InstrumentedAttribute[Moment],
    changes: Mapping[InstrumentedAttribute[Any], object],
) -> ColumnElement[Moment]:
    """The moment of this change: the database's clock if any value differs, else what it was.

    It always moves forward, also when the clock does not, since etags are made of it.
    """
    differs = or_(false(), *(column.is_distinct_from(value) for column, value in changes.items()))
    return case((differs, moment_after(updated_at)), else_=updated_at)


def moment_after(updated_at: InstrumentedAttribute[Moment]) -> ColumnElement[Moment]:
    """The present moment, or the first one after `updated_at` if the clock is not beyond it."""
    return later_of(
        present_moment(),
        Spelt(
            postgresql=type_coerce(updated_at + bindparam(None, TICK), MOMENT),
            mysql=func.timestampadd(literal_column("MICROSECOND"), 1, updated_at, type_=MOMENT),
            sqlite=type_coerce(type_coerce(updated_at, BigInteger) + 1, MOMENT),
        ),
    )


def later_of(
    one: ColumnElement[Moment] | InstrumentedAttribute[Moment], other: ColumnElement[Moment]
) -> ColumnElement[Moment]:
    """The later of two moments."""
    greatest = func.greatest(one, other, type_=MOMENT)
    return Spelt(postgresql=greatest, mysql=greatest, sqlite=func.max(one, other, type_=MOMENT))


def present_moment() -> ColumnElement[Moment]:
    """The database's clock, the same all through a statement, which begins after every lock held.

    PostgreSQL's `now()` is when the transaction began, and it may have waited for its locks since.
    """
    return Spelt(
        postgresql=func.statement_timestamp(type_=MOMENT),
        mysql=func.now(literal_column("6"), type_=MOMENT),
        sqlite=getattr(func, CLOCK)(type_=MOMENT),
    )


def moment_in(lifetime: ColumnElement[timedelta]) -> ColumnElement[Moment]:
    """The moment that is so long after the present one; a column of a lifetime that is given."""
    return Spelt(
        postgresql=type_coerce(present_moment() + lifetime, MOMENT),
        mysql=func.timestampadd(literal_column("MICROSECOND"), lifetime, present_moment()),
        sqlite=type_coerce(present_moment(), BigInteger) + type_coerce(lifetime, BigInteger),
    )


def moment_before(age: timedelta) -> ColumnElement[Moment]:
    """The moment that was so long ago."""
    ago = -(age // TICK)
    return Spelt(
        postgresql=func.now() - age,
        mysql=func.timestampadd(literal_column("MICROSECOND"), ago, present_moment()),
        sqlite=type_coerce(present_moment(), BigInteger) + ago,
    )


def exact_sum(column: SQLColumnExpression[Any]) -> ColumnElement[Any]:
    """A sum of whole numbers, 0 of nothing. What 64 bits cannot hold is beyond them here too.

    SQLite's own fails when it comes by a number of more bits, whatever is added after that. The sum
    of what is above 32 bits has room for the carry of 2^31 rows.
    """
    plain = func.coalesce(func.sum(cast(column, SUM)), 0)
    low = func.coalesce(func.sum(column.op("&")(_LOW)), 0)
    high = func.coalesce(func.sum(column.op(">>")(32)), 0) + low.op(">>")(32)
    fits = high.between(-(2**31), 2**31 - 1)
    whole = high.op("<<")(32).op("|")(low.op("&")(_LOW))
    beyond = high * float(2**32)
    return Spelt(postgresql=plain, mysql=plain, sqlite=case((fits, whole), else_=beyond))


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
    dear = or_(bindparam(None, value=True), rows.is_not(None))
    return Spelt(postgresql=dear, mysql=true(), sqlite=true())


def first_of_each(  # noqa: PLR0913, PLR0917 - a statement has as many parts
    dialect: str,
    columns: Sequence[InstrumentedAttribute[Any]],
    column: InstrumentedAttribute[Any],
    owner: InstrumentedAttribute[Any],
    name: str,
    order: Sequence[InstrumentedAttribute[Any]],
    rows: int,
) -> Select[*tuple[Any, ...]]:
    """Selects the last rows by an order of each of some owners, the last first.

    PostgreSQL walks an index from each owner, and reads no row more. The others number all rows of
    the owners.

    Args:
        dialect: which kind of database.
        columns: what is selected, the order's columns among it.
        column: tells whose a row is.
        owner: the key of the owners' table.
        name: the parameter that lists the owners.
        order: by which rows are first.
        rows: how many of each owner.
    """
    if dialect == "postgresql":
        first = (
            select(*columns)
            .where(is_walked_from(column, owner))
            .order_by(column.desc(), *(each.desc() for each in order))
            .limit(row_limit(rows))
            .lateral()
        )
        owned = select(*first.c).select_from(owner.class_).join(first, true())
        return owned.where(is_one_of(owner, name)).order_by(
            *(first.c[each.key].desc() for each in order)
        )
    place = func.row_number().over(partition_by=column, order_by=[each.desc() for each in order])
    numbered = select(*columns, place.label("place")).where(is_one_of(column, name)).subquery()
    return (
        select(*(numbered.c[each.key] for each in columns))
        .where(numbered.c.place <= rows)
        .order_by(*(numbered.c[each.key].desc() for each in order))
    )


def joined_count(
    dialect: str, columns: Sequence[InstrumentedAttribute[Any]], count: Select[*tuple[Any, ...]]
) -> tuple[Select[*tuple[Any, ...]], Mapping[str, SQLColumnExpression[Any]]]:
    """Selects columns of a table and a count for each row, to be sorted and narrowed by the count.

    Args:
        dialect: which kind of database.
        columns: of one table.
        count: of what belongs to a row.

    Returns:
        The select, and its columns by name: the count is `count`.
    """
    table = columns[0].class_
    if dialect == "postgresql":
        counts = count.lateral()
        (number,) = counts.c
        named = {each.key: each for each in columns} | {"count": number}
        return select(*columns, number).join_from(table, counts, true()), named
    counted = select(*columns, count.scalar_subquery().label("count")).subquery()
    return select(*counted.c), dict(counted.c)


def row_limit(rows: int) -> ColumnElement[int]:
    """A limit that is part of the statement's text.

    A plan prepared for a limit it does not know expects a tenth of the table, and sorts it.
    """
    return literal_column(str(rows))
