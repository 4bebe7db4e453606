"""Statements that go to PostgreSQL's own driver, in the words that SQLAlchemy has for them.

SQLAlchemy writes a statement once, and lends the connection. What it would do besides, each time it
is run, costs twice what the driver takes. It still does it where there is no such driver, or where
the driver does not take values as they are, or give them so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from asyncpg import Record
from sqlalchemy import Boolean, Numeric
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Dialect, Executable
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import PoolProxiedConnection
    from sqlalchemy.types import TypeEngine

    from storage.dialects.postgresql import Connection
    from storage.usage import Parameters

# Statements that a connection keeps prepared. Byline has some hundred, with all that is asked of
# pages.
MOST = 1000
# Which time it is that a statement comes again.
AGAIN = 2


class Row(Record):
    """A row, whose columns are its attributes too."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the column has
        """Returns the value of a column."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Rows:
    """What a statement answered, as SQLAlchemy's `CursorResult` tells it.

    Args:
        rows: that it returned.
        rowcount: how many it returned or changed.
    """

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        """Returns the rows, one after the other."""
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        """Returns the rows."""
        return self._rows

    def first(self) -> Any:  # noqa: ANN401 - of whatever columns
        """Returns the first row, or None where there is none."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:  # noqa: ANN401 - of whatever columns
        """Returns the only row."""
        (row,) = self._rows
        return row

    def one_or_none(self) -> Any:  # noqa: ANN401 - of whatever columns
        """Returns the only row, or None where there is none."""
        return self.one() if self._rows else None

    def scalars(self) -> Rows:
        """Returns the first value of each row, instead of the rows."""
        return Rows([row[0] for row in self._rows], self.rowcount)

    def scalar(self) -> Any:  # noqa: ANN401 - whatever the column has
        """Returns the first value of the first row, or None where there is none."""
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:  # noqa: ANN401 - whatever the column has
        """Returns the first value of the only row."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:  # noqa: ANN401 - whatever the column has
        """Returns the first value of the only row, or None where there is none."""
        return self.scalar_one() if self._rows else None


class _Bind(NamedTuple):
    """A parameter of a statement: its name, and its value where none has to be given."""

    name: str
    value: Any
    required: bool


class Words(NamedTuple):
    """A statement as the driver takes it.

    Args:
        sql: its text, with numbered placeholders.
        binds: what these stand for.
        returns: whether it answers with rows.
    """

    sql: str
    binds: tuple[_Bind, ...]
    returns: bool

    def values(self, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """Returns the values of the placeholders."""
        return tuple(
            [
                parameters[name] if required else parameters.get(name, value)
                for name, value, required in self.binds
            ]
        )

    async def send(self, driver: Connection, values: Sequence[Any]) -> Rows:
        """Runs the statement; raises the driver's errors."""
        if self.returns:
            rows = await driver.fetch(self.sql, *values, record_class=Row)
            return Rows(rows, len(rows))
        status = await driver.execute(self.sql, *values)
        # "UPDATE 1"
        changed = status.rpartition(" ")[2]
        return Rows((), int(changed) if changed.isdigit() else -1)


class _Known:
    """A statement that has come, and its words once it came again.

    One that is made for each call is not worth finding them.
    """

    __slots__ = ("_times", "_words")

    def __init__(self) -> None:
        self._times = 0
        self._words: Words | None = None

    def words(
        self, statement: Executable, columns: Sequence[str] | None, dialect: Dialect
    ) -> Words | None:
        if self._times < AGAIN:
            self._times += 1
            if self._times == AGAIN:
                self._words = _words_of(statement, columns, dialect)
        return self._words


def driver_of(
    engine: AsyncEngine, lent: AsyncConnection | PoolProxiedConnection
) -> Connection | None:
    """Returns the driver's own connection where it is PostgreSQL's, and None elsewhere."""
    if engine.dialect.name != "postgresql":
        return None
    if isinstance(lent, AsyncConnection):
        if lent.sync_connection is None:
            return None
        lent = lent.sync_connection.connection
    driver: Connection | None = lent.driver_connection
    return driver


def words_of(
    driver: Connection, statement: Executable, parameters: Parameters, dialect: Dialect
) -> Words | None:
    """Returns a statement as a driver takes it, None where SQLAlchemy is to run it."""
    if not driver.is_direct or not (parameters is None or isinstance(parameters, dict)):
        return None
    columns = tuple(parameters) if parameters else None
    forms = _known.setdefault(dialect, WeakKeyDictionary()).setdefault(statement, {})
    known = forms.get(columns)
    if known is None:
        known = forms[columns] = _Known()
    return known.words(statement, columns, dialect)


# By the names of its parameters, for as long as somebody has the statement: there are as many of
# those that are made for a call as there are calls.
_known: WeakKeyDictionary[
    Dialect, WeakKeyDictionary[Executable, dict[tuple[str, ...] | None, _Known]]
] = WeakKeyDictionary()


def _words_of(
    statement: Any,  # noqa: ANN401 - of any kind
    columns: Sequence[str] | None,
    dialect: Dialect,
) -> Words | None:
    """Compiles a statement; returns None when SQLAlchemy has more to do for it than that."""
    if not (statement.is_select or statement.is_dml):
        return None
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    binds = {name: bind for bind, name in compiled.bind_names.items()}
    listed = [binds[name] for name in compiled.positiontup]
    selected = tuple(column.type for column in statement.exported_columns)
    has_more_to_do = (
        compiled.post_compile_params
        or compiled.literal_execute_params
        or compiled.insert_prefetch
        or compiled.update_prefetch
        or any(bind.callable for bind in listed)
        or not all(_takes_as_it_is(bind.type, dialect) for bind in listed)
        or not all(_comes_as_it_is(each, dialect) for each in selected)
    )
    if has_more_to_do:
        return None
    told = tuple(_Bind(bind.key, bind.value, bind.required) for bind in listed)
    return Words(str(compiled), told, returns=bool(selected))


def _takes_as_it_is(kind: TypeEngine[Any], dialect: Dialect) -> bool:
    # What SQLAlchemy has for an array looks at its items alone.
    item = kind.item_type if isinstance(kind, ARRAY) else kind
    if isinstance(item, Boolean):
        return True  # SQLAlchemy would see to it that it is one, as the driver does
    return item.dialect_impl(dialect).bind_processor(dialect) is None


def _comes_as_it_is(kind: TypeEngine[Any], dialect: Dialect) -> bool:
    # Of a number SQLAlchemy decides by what the database says it is.
    is_number = isinstance(kind, Numeric)
    return not is_number and kind.dialect_impl(dialect).result_processor(dialect, None) is None
