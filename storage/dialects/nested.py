"""Rows within a row: what belongs to it, as one value that comes along with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import BigInteger, DateTime, Text, cast, extract, func, literal_column

from storage.dialects.sql import Spelt
from storage.moments import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import InstrumentedAttribute

    Column = ColumnElement[Any] | InstrumentedAttribute[Any]


def rows_of(
    found: Select[*tuple[Any, ...]], columns: Sequence[Column]
) -> ColumnElement[str | None]:
    """The rows that a select finds for the row that it is part of, in any order.

    They are JSON, which `read_rows` reads.

    Args:
        found: selects them.
        columns: what is wanted of each.
    """

    def gathered(rows: ColumnElement[Any]) -> ColumnElement[Any]:
        return found.with_only_columns(rows, maintain_column_froms=True).scalar_subquery()

    # JSON knows no moments.
    def with_numbers(of_moment: Callable[[Column], Column]) -> list[Column]:
        return [of_moment(each) if isinstance(each.type, DateTime) else each for each in columns]

    return Spelt(
        postgresql=cast(
            gathered(func.json_agg(func.json_build_array(*with_numbers(_by_epoch)))), Text
        ),
        mysql=gathered(func.json_arrayagg(func.json_array(*with_numbers(_by_difference)))),
        sqlite=gathered(func.json_group_array(func.json_array(*columns))),
    )


def read_rows(value: str | None) -> list[list[Any]]:
    """Reads a column that is `rows_of`: none where there are none."""
    return [] if value is None else orjson.loads(value)


def _by_epoch(moment: Column) -> Column:
    return cast(extract("epoch", moment) * SECOND, BigInteger)


def _by_difference(moment: Column) -> Column:
    since: ColumnElement[Any] = literal_column("'1970-01-01'")
    return func.timestampdiff(literal_column("MICROSECOND"), since, moment)
