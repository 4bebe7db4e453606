"""Rows within a row: what belongs to it, as one value that comes along with it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import DateTime, Text, cast, func
from sqlalchemy.types import TypeDecorator

from storage.dialects.sql import Spelt
from storage.dialects.types import EPOCH, TICK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Dialect, Select
    from sqlalchemy.orm import InstrumentedAttribute

# JSON knows no moments: each database writes them in its own way.
_MOMENTS: Mapping[str, Callable[[Any], datetime]] = {
    "postgresql": datetime.fromisoformat,
    "mysql": lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC),
    "sqlite": lambda microseconds: EPOCH + microseconds * TICK,
}


class _Rows(TypeDecorator[list[list[Any]]]):
    """Rows as JSON; none where there are none.

    Args:
        moments: the places of moments in a row.
    """

    impl = Text
    cache_ok = True

    def __init__(self, moments: tuple[int, ...]) -> None:
        super().__init__()
        self.moments = moments

    def process_result_value(self, value: str | None, dialect: Dialect) -> list[list[Any]]:
        if value is None:
            return []
        rows: list[list[Any]] = orjson.loads(value)
        read = _MOMENTS[dialect.name]
        for row in rows:
            for place in self.moments:
                row[place] = read(row[place])
        return rows


def rows_of(
    found: Select[*tuple[Any, ...]],
    columns: Sequence[ColumnElement[Any] | InstrumentedAttribute[Any]],
) -> ColumnElement[list[list[Any]]]:
    """The rows that a select finds for the row that it is part of, in any order.

    Args:
        found: selects them.
        columns: what is wanted of each.
    """
    kind = _Rows(tuple(at for at, each in enumerate(columns) if isinstance(each.type, DateTime)))

    def gathered(rows: ColumnElement[Any]) -> ColumnElement[Any]:
        return found.with_only_columns(rows, maintain_column_froms=True).scalar_subquery()

    return Spelt(
        postgresql=cast(gathered(func.json_agg(func.json_build_array(*columns))), kind),
        mysql=gathered(func.json_arrayagg(func.json_array(*columns))),
        sqlite=gathered(func.json_group_array(func.json_array(*columns))),
    )
