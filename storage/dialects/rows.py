"""Statements about many rows at a time, and those that answer with the rows they changed."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asyncpg import PostgresError
from sqlalchemy import (
    DateTime,
    Delete,
    String,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy import column as sql_column
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from storage.dialects.at_once import AtOnce, in_time
from storage.dialects.sql import of_any_length
from storage.dialects.types import MYSQL_COLLATION
from storage.errors import of_sqlstate
from storage.moments import TICK, datetime_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import (
        CTE,
        BindParameter,
        ClauseElement,
        ColumnElement,
        Dialect,
        FromClause,
        Insert,
        Row,
        Select,
        Update,
    )
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.selectable import TableValuedAlias
    from sqlalchemy.types import TypeEngine

    from storage.database import Transaction
    from storage.models import Base
    from storage.sessions import Result

    Dml = Insert | Update | Delete
    # Names the rows that a change returns, for others to read.
    Source = Callable[[str, Dml], FromClause]
    # What is changed, and what is told of it.
    Changes = tuple[Sequence[Dml], Select[*tuple[Any, ...]]]


class _Given(FunctionElement[Any]):
    """A table function: rows that are parameters."""

    inherit_cache = True
    name = "given"

    def of_the_rows(self) -> list[ColumnElement[Any]]:
        """The columns that the rows have."""
        kind: Any = self._table_value_type
        return list(kind._elements)  # noqa: SLF001 - kept nowhere else


def rows_given(name: str, **columns: TypeEngine[Any]) -> TableValuedAlias:
    """Rows that are parameters, which `given` makes. They come in the order given.

    The statement's text is the same for any number of rows. PostgreSQL takes an array for each
    column, named `name_column`, the others one text of JSON.
    """
    arrays = [of_any_length(f"{name}_{column}", kind) for column, kind in columns.items()]
    typed = [sql_column(column, kind) for column, kind in columns.items()]
    return _Given(*arrays, bindparam(name, type_=Text)).table_valued(*typed, name=name)


@compiles(_Given)
def _unnested(element: _Given, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - the interface
    *arrays, _ = element.clauses
    names = ", ".join(str(column.key) for column in element.of_the_rows())
    listed = ", ".join(compiler.process(each, **kw) for each in arrays)
    return f"(SELECT * FROM unnest({listed}) AS given({names}))"  # noqa: S608 - names of the code's


@compiles(_Given, "mysql")
def _json_table(element: _Given, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - the interface
    *_, text = element.clauses
    columns = ", ".join(
        f"{column.key} {_json_type(column)} PATH '$[{at}]'"
        for at, column in enumerate(element.of_the_rows())
    )
    return f"JSON_TABLE({compiler.process(text, **kw)}, '$[*]' COLUMNS ({columns}))"


def _json_type(column: ColumnElement[Any]) -> str:
    if isinstance(column.type, String):
        return f"TEXT CHARACTER SET utf8mb4 COLLATE {MYSQL_COLLATION}"
    return "DATETIME(6)" if isinstance(column.type, DateTime) else "BIGINT"


@compiles(_Given, "sqlite")
def _json_each(element: _Given, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - the interface
    *_, text = element.clauses
    columns = ", ".join(
        f"json_extract(value, '$[{at}]') AS {column.key}"
        for at, column in enumerate(element.of_the_rows())
    )
    return f"(SELECT {columns} FROM json_each({compiler.process(text, **kw)}))"  # noqa: S608 - names of the code's


def given(
    tx: Transaction, rows: TableValuedAlias, **values: Sequence[Any]
) -> dict[str, Sequence[Any] | str]:
    """Returns the parameters that are the rows.

    Args:
        tx: where they go.
        rows: from `rows_given`.
        values: of each column, all of the same length.
    """
    if tx.dialect == "postgresql":
        return {f"{rows.name}_{column.key}": values[column.key] for column in rows.c}
    columns = [values[column.key] for column in rows.c]
    if tx.dialect == "mysql":
        columns = list(map(_as_mysql_reads, rows.c, columns))
    return {rows.name: json.dumps(list(zip(*columns, strict=True)), default=_as_json)}


def _as_mysql_reads(column: ColumnElement[Any], values: Sequence[Any]) -> Sequence[Any]:
    if not isinstance(column.type, DateTime):
        return values
    return [
        value if value is None else f"{datetime_of(value):%Y-%m-%d %H:%M:%S.%f}" for value in values
    ]


def _as_json(value: object) -> object:
    if isinstance(value, timedelta):
        return value // TICK
    if isinstance(value, UUID):
        return value.hex
    raise TypeError(f"no JSON stands for a {type(value).__name__}")


def adding_missing(table: type[Base]) -> postgresql.Insert:
    """Returns the statement that adds rows, and passes over those whose unique keys are taken.

    It waits for transactions that are adding the same, and passes over what they commit.
    """
    statement = postgresql.insert(table).on_conflict_do_nothing()
    return statement.prefix_with("IGNORE", dialect="mysql").prefix_with(
        "OR IGNORE", dialect="sqlite"
    )


@compiles(postgresql.dml.OnConflictDoNothing)
def _on_conflict(
    element: postgresql.dml.OnConflictDoNothing,
    compiler: SQLCompiler,
    **kw: Any,  # noqa: ANN401 - the interface
) -> str:
    return compiler.visit_on_conflict_do_nothing(element, **kw)  # type: ignore[attr-defined,no-any-return] # PostgreSQL's


@compiles(postgresql.dml.OnConflictDoNothing, "mysql")
@compiles(postgresql.dml.OnConflictDoNothing, "sqlite")
def _said_before(element: object, compiler: object, **kw: object) -> str:  # noqa: ARG001 - the interface
    """The prefix has said it."""
    return ""


async def insert_missing(
    tx: Transaction,
    table: type[Base],
    columns: Mapping[InstrumentedAttribute[Any], Sequence[Any]],
    returning: Sequence[InstrumentedAttribute[Any]] = (),
) -> Result:
    """Adds those of the rows whose unique keys are free, in order, as `adding_missing` does.

    Args:
        tx: the transaction.
        table: what is added to.
        columns: the values of each column, all of the same length.
        returning: what the result tells of each row that was added.
    """
    if tx.dialect == "postgresql":
        lists = {column.key: list(values) for column, values in columns.items()}
        return await tx.execute(_adding(table, tuple(columns), tuple(returning)), named(lists))
    rows = zip(*columns.values(), strict=True)
    statement = adding_missing(table).values([dict(zip(columns, row, strict=True)) for row in rows])
    return await tx.execute(statement.returning(*returning) if returning else statement)


@cache
def _adding(
    table: type[Base],
    columns: tuple[InstrumentedAttribute[Any], ...],
    returning: tuple[InstrumentedAttribute[Any], ...],
) -> Insert:
    """PostgreSQL: adds rows, any number of them by one text."""
    unnested = (
        func.unnest(bindparam(f"new_{column.key}", type_=ARRAY(column.type))) for column in columns
    )
    statement = adding_missing(table).from_select(list(columns), select(*unnested))
    return statement.returning(*returning) if returning else statement


async def update_rows(
    tx: Transaction,
    table: type[Base],
    keys: Mapping[InstrumentedAttribute[Any], Sequence[Any]],
    values: Mapping[InstrumentedAttribute[Any], Sequence[Any]],
) -> None:
    """Gives each of some rows values of its own.

    Args:
        tx: the transaction.
        table: whose rows.
        keys: what finds the rows: the values of each column.
        values: the values to be, as many.
    """
    lists = {column.key: each for column, each in (*keys.items(), *values.items())}
    if tx.dialect == "postgresql":
        statement, rows = _updating(table, tuple(keys), tuple(values))
        await tx.execute(statement, given(tx, rows, **lists))
        return
    found = (column == bindparam(f"new_{column.key}", type_=column.type) for column in keys)
    to_be: Any = {column: bindparam(f"new_{column.key}") for column in values}
    statement = update(table).where(*found).values(to_be)
    names = [f"new_{name}" for name in lists]
    rows_of = zip(*lists.values(), strict=True)
    await tx.execute(statement, [dict(zip(names, row, strict=True)) for row in rows_of])


@cache
def _updating(
    table: type[Base],
    keys: tuple[InstrumentedAttribute[Any], ...],
    values: tuple[InstrumentedAttribute[Any], ...],
) -> tuple[Update, TableValuedAlias]:
    rows = rows_given("given", **{column.key: column.type for column in (*keys, *values)})
    found = (column == rows.c[column.key] for column in keys)
    return update(table).where(*found).values({each: rows.c[each.key] for each in values}), rows


async def delete_rows(
    tx: Transaction, table: type[Base], keys: Mapping[InstrumentedAttribute[Any], Sequence[Any]]
) -> None:
    """Removes the rows that are found by the values of these columns."""
    if tx.dialect == "postgresql":
        statement, rows = _deleting(table, tuple(keys))
        await tx.execute(statement, given(tx, rows, **{key.key: keys[key] for key in keys}))
        return
    listed = list(zip(*keys.values(), strict=True))
    await tx.execute(delete(table).where(tuple_(*keys).in_(listed)))


@cache
def _deleting(
    table: type[Base], keys: tuple[InstrumentedAttribute[Any], ...]
) -> tuple[Delete, TableValuedAlias]:
    rows = rows_given("given", **{column.key: column.type for column in keys})
    return delete(table).where(*(column == rows.c[column.key] for column in keys)), rows


def new_values(table: type[Base], names: Iterable[str]) -> dict[Any, BindParameter[Any]]:
    """Returns what columns are changed to: parameters, whose values `named` tells."""
    columns = [getattr(table, name) for name in names]
    return {column: bindparam(f"new_{column.key}", type_=column.type) for column in columns}


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters that columns are changed to, by the names of the columns."""
    return {f"new_{name}": value for name, value in values.items()}


class ChangeOne:
    """A change of the row with a key, which answers with the row.

    Args:
        change: of one row at most, whose key is the parameter `key`.
        columns: what is returned of it.
        key: the column that the key is in.
    """

    def __init__(
        self,
        change: Update,
        columns: Sequence[InstrumentedAttribute[Any]],
        key: InstrumentedAttribute[Any],
    ) -> None:
        self._change = change
        self._returning = change.returning(*columns)
        self._at_once = AtOnce(self._returning.where(in_time()))
        self._again = select(*columns).where(key == bindparam("key"))

    async def execute(self, tx: Transaction, parameters: Mapping[str, Any]) -> Row[Any] | None:
        """Changes the row and returns it, or None when there is none that it is for."""
        if tx.dialect == "mysql":
            if (await tx.execute(self._change, parameters)).rowcount == 0:
                return None
            return (await tx.execute(self._again, parameters)).one()
        rows = await self._at_once.execute(tx, parameters)
        if rows is not None:
            return rows[0] if rows else None
        return (await tx.execute(self._returning, parameters)).one_or_none()


class Together:
    """Changes that are one statement where the database can say it so, and otherwise several.

    All of them see the database as it was before, so none may read what another changes but by what
    that returns.

    Args:
        changes: builds the changes and the select of the result, given how the rows that a change
            returns are named for the others to read.
    """

    def __init__(self, changes: Callable[[Source], Changes]) -> None:
        made, result = changes(_as_cte)
        self._joined = result.add_cte(*(change.cte() for change in made))
        self._sources: list[tuple[TableValuedAlias, Dml]] = []
        made, result = changes(self._as_given)
        self._apart = (*made, result)

    def _as_given(self, name: str, change: Dml) -> TableValuedAlias:
        returned = change.exported_columns
        rows = rows_given(name, **{str(column.key): column.type for column in returned})
        self._sources.append((rows, change))
        return rows

    async def execute(self, tx: Transaction, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Makes the changes, and returns the rows of the result."""
        if tx.dialect == "postgresql":
            return (await tx.execute(self._joined, parameters)).all()
        known = dict(parameters)
        for rows, change in self._sources:
            returned = await _changed(tx, change, _taken(tx, change, known))
            columns = zip(*returned, strict=True) if returned else ((),) * len(rows.c)
            named: dict[str, Sequence[Any]] = {}
            for column, values in zip(rows.c, columns, strict=True):
                named[str(column.key)] = values
            known |= given(tx, rows, **named)
        for statement in self._apart[:-1]:
            await tx.execute(statement, _taken(tx, statement, known))
        result = self._apart[-1]
        return (await tx.execute(result, _taken(tx, result, known))).all()


async def _changed(
    tx: Transaction, change: Dml, parameters: Mapping[str, Any]
) -> Sequence[Row[Any]]:
    """Makes a change, and returns its rows.

    MariaDB locks what a deletion walks, by whatever index, on its way to the rows. There they are
    found without a lock, and deleted by their primary key. That they stay until then is up to
    whoever deletes: they have locked what the rows belong to.
    """
    if tx.dialect != "mysql" or not isinstance(change, Delete):
        return (await tx.execute(change, parameters)).all()
    found = (await tx.execute(_finding(change), parameters)).all()
    if found:
        (key,) = change.table.primary_key
        gone = [getattr(row, key.name) for row in found]
        await tx.execute(delete(change.table).where(key.in_(gone)))
    return found


@cache
def _finding(change: Delete) -> Select[*tuple[Any, ...]]:
    finding = select(*change.exported_columns)
    return finding if change.whereclause is None else finding.where(change.whereclause)


def _as_cte(name: str, change: Dml) -> CTE:
    return change.cte(name)


def _taken(tx: Transaction, statement: ClauseElement, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the parameters that a statement takes."""
    return {name: known[name] for name in _names(statement, tx.sql_dialect) & known.keys()}


@cache
def _names(statement: ClauseElement, dialect: Dialect) -> frozenset[str]:
    compiled: Any = statement.compile(dialect=dialect)
    return frozenset(compiled.bind_names.values())


async def reserve_ids(tx: Transaction, column: InstrumentedAttribute[int], count: int) -> list[int]:
    """Takes ids that the database will give to nobody else, in rising order.

    Where there are no sequences, they are those after the last one that was given: the transaction
    is to add rows with them before anybody else adds any.
    """
    table = column.class_.__tablename__
    if tx.dialect == "postgresql":
        numbers = select(func.nextval(func.pg_get_serial_sequence(table, column.key))).select_from(
            func.generate_series(1, count)
        )
        return sorted((await tx.execute(numbers)).scalars())
    last = (await tx.execute(text(_LAST_ID[tx.dialect]), {"name": table})).scalar() or 0
    return list(range(last + 1, last + 1 + count))


# Not that of the last row: a later one may have had another, and be gone.
_LAST_ID = {
    "mysql": "SELECT auto_increment - 1 FROM information_schema.tables"
    " WHERE table_schema = database() AND table_name = :name",
    "sqlite": "SELECT seq FROM sqlite_sequence WHERE name = :name",
}


async def copy_in(
    tx: Transaction,
    columns: Sequence[InstrumentedAttribute[Any]],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Adds many rows at a time: on PostgreSQL by COPY, ten times as fast as by INSERT.

    Args:
        tx: a transaction that has run a statement already.
        columns: of one table.
        rows: a value for each column.

    Raises:
        StorageError: as for any statement.
    """
    if tx.dialect != "postgresql":
        if rows:
            names = [column.key for column in columns]
            values = [dict(zip(names, row, strict=True)) for row in rows]
            await tx.execute(insert(columns[0].class_), values)
        return
    driver = await tx.driver_connection()
    try:
        await driver.copy_records_to_table(
            columns[0].class_.__tablename__,
            records=rows,
            columns=[column.key for column in columns],
        )
    except PostgresError as error:
        raise of_sqlstate(error.sqlstate or "", error.constraint_name or "") from None
