"""The types of columns, as each database has them.

PostgreSQL's are the plain ones: SQLAlchemy has no function to call for a value.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, DateTime, Integer, LargeBinary, Numeric, String, Text, Uuid, text
from sqlalchemy.dialects.mysql import DATETIME, LONGBLOB, LONGTEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from storage.moments import Moment, datetime_of, moment_of

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.operators import OperatorType

# By code point, and with spaces at the end counted.
MYSQL_COLLATION = "utf8mb4_nopad_bin"
TABLE_OPTIONS: dict[str, Any] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": MYSQL_COLLATION,
    "mysql_engine": "InnoDB",
}
# Of a table that gives ids: none is given twice, also when the row that had it is gone.
GIVES_IDS: dict[str, Any] = {"sqlite_autoincrement": True}


class _Moment(DateTime):
    """A datetime where it is kept, and a moment where it is not."""

    def coerce_compared_value(self, op: OperatorType | None, value: object) -> TypeEngine[Any]:
        """Returns what a value beside a moment is: a number is a moment too."""
        return self if isinstance(value, Moment) else super().coerce_compared_value(op, value)


class _UtcDateTime(TypeDecorator[Moment]):
    """MariaDB keeps no zone: what is kept is UTC, to the microsecond."""

    impl = DATETIME(fsp=6)
    cache_ok = True

    def process_bind_param(self, value: Moment | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the interface
        return None if value is None else datetime_of(value).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> Moment | None:  # noqa: ARG002 - the interface
        return None if value is None else moment_of(value.replace(tzinfo=UTC))


# What goes to PostgreSQL and comes from there is moments already: see `introduce` in postgresql.py.
MOMENT: TypeEngine[Any] = (
    _Moment(timezone=True)
    .with_variant(_UtcDateTime(), "mysql", "mariadb")
    .with_variant(BigInteger(), "sqlite")
)
# SQLite counts up a primary key of this name of a type alone.
ID = BigInteger().with_variant(Integer(), "sqlite")
# Without a bound of MariaDB's own: 65,535 bytes of TEXT are fewer than a post may have.
LONG_TEXT = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
LONG_BYTES = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
# MariaDB's own type refuses those whose version or variant no standard knows.
ANY_UUID = Uuid().with_variant(Uuid(native_uuid=False), "mysql", "mariadb")
# Sums of 64 bits each. MariaDB's own has ten digits, and keeps the largest of these for more. What
# SQLite has is told as it is.
SUM = (
    Numeric()
    .with_variant(Numeric(38, 0), "mysql", "mariadb")
    .with_variant(Numeric(asdecimal=False), "sqlite")
)
# Part of a primary key, which MariaDB bounds.
NAME = Text().with_variant(String(255), "mysql", "mariadb")


def sorted_text(length: int) -> String:
    """A text that is compared and sorted by code point."""
    return (
        String(length, collation="C")
        .with_variant(String(length, collation=MYSQL_COLLATION), "mysql", "mariadb")
        .with_variant(String(length), "sqlite")
    )


def only(where: str) -> dict[str, Any]:
    """The rows that an index has, where the database can say so. Elsewhere it has all of them."""
    return {"postgresql_where": text(where), "sqlite_where": text(where)}


class clock(FunctionElement[Moment]):  # noqa: N801 - reads as the function that it is
    """The database's clock as the default of a column: one moment for a transaction or less."""

    inherit_cache = True
    type = MOMENT


@compiles(clock)
def _now(element: clock, compiler: SQLCompiler, **kw: object) -> str:  # noqa: ARG001 - the interface
    return "now()"


@compiles(clock, "mysql")
def _current_timestamp(element: clock, compiler: SQLCompiler, **kw: object) -> str:  # noqa: ARG001 - the interface
    return "CURRENT_TIMESTAMP(6)"


@compiles(clock, "sqlite")
def _since_1970(element: clock, compiler: SQLCompiler, **kw: object) -> str:  # noqa: ARG001 - the interface
    return "(CAST(round((julianday('now') - 2440587.5) * 86400000) * 1000 AS INTEGER))"
