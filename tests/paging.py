"""Lists as a caller follows them: from the first page to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from storage.keyset import Cursor, Order, Page, Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    Row = TypeVar("Row", bound=tuple[Any, ...])
    Fetch = Callable[[Window], Awaitable[Page[Row]]]


def orders(*fields: str) -> list[Order]:
    """Every order by one of the fields."""
    return [Order(field, descending=down) for field in fields for down in (False, True)]


async def all_pages(fetch: Fetch[Row], order: Order, *, limit: int = 3) -> AsyncIterator[list[Row]]:
    """Follows a list to its end."""
    after: Cursor | None = None
    while True:
        page = await fetch(Window(order, after, limit))
        assert len(page.rows) == limit or page.next is None
        assert page.next is None or page.next != after
        yield list(page.rows)
        after = page.next
        if after is None:
            return


async def listed(fetch: Fetch[Row], order: Order, *, limit: int = 1000) -> list[Row]:
    """All rows of a list."""
    return [row async for page in all_pages(fetch, order, limit=limit) for row in page]


def in_order(
    rows: Iterable[Row], order: Order, values: Mapping[str, Callable[[Row], Any]]
) -> list[Row]:
    """The rows as a list in this order has them.

    Args:
        rows: in any order.
        order: how the list is sorted.
        values: what each field that it can be sorted by is, `id` among them.
    """

    def position(row: Row) -> tuple[Any, Any]:
        return values[order.field](row), values["id"](row)

    return sorted(rows, key=position, reverse=order.descending)
