"""Pages by key: a page starts after the last row of the one before, never at an offset.

The thousandth page costs what the first does, and a row that is there throughout is seen exactly
once, whatever is inserted or deleted meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from storage.dialects.sql import is_after, row_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Select, SQLColumnExpression

# Statements of a list that are kept: of so many filters, orders and sizes of pages.
SHAPES = 256

Row = TypeVar("Row", bound=tuple[Any, ...])
# A number may be a moment.
Value = int | str


class Order(NamedTuple):
    """How a list is sorted: by one field, ties broken by id in the same direction."""

    field: str
    descending: bool = False


class Cursor(NamedTuple):
    """Where a page ended: the sort value and the id of its last row."""

    value: Value
    id: int


class Window(NamedTuple):
    """Which page of a list is wanted.

    Args:
        order: how the list is sorted.
        after: where the page before ended; None for the first page.
        limit: rows of a page.
    """

    order: Order
    after: Cursor | None
    limit: int

    @property
    def shape(self) -> Window:
        """What it has in common with all windows that the same statement is for."""
        return self if self.after is None else self._replace(after=_SOMEWHERE)

    @property
    def parameters(self) -> dict[str, Value]:
        """What the statement is told of this one."""
        if self.after is None:
            return {}
        return {_AFTER_VALUE: self.after.value, _AFTER_ID: self.after.id}


class Page(NamedTuple, Generic[Row]):
    """Some rows, and where the next page starts; None on the last page."""

    rows: Sequence[Row]
    next: Cursor | None


_AFTER_VALUE, _AFTER_ID = "after_value", "after_id"
_SOMEWHERE = Cursor("", 0)


def paged(
    statement: Select[*tuple[Any, ...]],
    window: Window,
    columns: Mapping[str, SQLColumnExpression[Any]],
    *,
    within: SQLColumnExpression[Any] | None = None,
) -> Select[*tuple[Any, ...]]:
    """Returns the statement narrowed to one page and one row more, sorted.

    It takes the window's parameters, and is the same for all windows of a shape.

    `within` is for rows that lie together in an index, behind a column that is the same in all of
    them. It makes that index the only one in the order: the planner would walk another for rows
    that are many, past all that lies between them. The column must not be compared by `=`, which
    would make it a constant, and constants do not count in an order. What no index begins with
    keeps the planner from walking any.

    Args:
        statement: selects the rows.
        window: which page.
        columns: what each field that can be ordered by is in SQL, `id` among them.
        within: what is the same in all rows.
    """
    order, after, limit = window
    if after is not None:
        by = _columns_of(order, columns)
        names = [_AFTER_VALUE, _AFTER_ID][-len(by) :]
        statement = statement.where(is_after(by, names, descending=order.descending))
    if within is not None:
        statement = statement.order_by(within.desc() if order.descending else within)
    return statement.order_by(*order_by(order, columns)).limit(row_limit(limit + 1))


def order_by(
    order: Order, columns: Mapping[str, SQLColumnExpression[Any]]
) -> list[ColumnElement[Any]]:
    """Returns what a statement in this order is sorted by, given the columns as for `paged`."""
    return [
        column.desc() if order.descending else column.asc()
        for column in _columns_of(order, columns)
    ]


def _columns_of(
    order: Order, columns: Mapping[str, SQLColumnExpression[Any]]
) -> list[SQLColumnExpression[Any]]:
    return [columns[name] for name in dict.fromkeys((order.field, "id"))]


def page(
    rows: Sequence[Row], window: Window, values: Mapping[str, Callable[[Row], Value]]
) -> Page[Row]:
    """Returns the page that the rows of a `paged` statement make.

    Args:
        rows: what the statement returned, at most one more than the page holds.
        window: which page.
        values: how each field that can be ordered by is read off a row, `id` among them.
    """
    if len(rows) <= window.limit:
        return Page(rows, None)
    rows = rows[: window.limit]
    last = rows[-1]
    value, tie = values[window.order.field](last), values["id"](last)
    return Page(rows, Cursor(value, cast("int", tie)))
