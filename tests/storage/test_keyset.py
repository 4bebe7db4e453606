"""Pages by key. That they hold every row once, tests/storage/test_users.py shows on rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import Integer, String, column, select
from sqlalchemy.dialects.postgresql import asyncpg

from storage.keyset import Cursor, Order, Window, page, paged

if TYPE_CHECKING:
    from sqlalchemy import SQLColumnExpression


class Row(NamedTuple):
    name: str
    id: int


COLUMNS: dict[str, SQLColumnExpression[Any]] = {
    "id": column("id", Integer),
    "name": column("name", String),
}
VALUES = {"id": lambda row: row.id, "name": lambda row: row.name}
ROWS = [Row("a", 1), Row("b", 9), Row("b", 12), Row("c", 3)]


def sql_of(window: Window) -> str:
    statement = paged(select(*COLUMNS.values()), window, COLUMNS)
    compiled = statement.params(window.parameters).compile(
        dialect=asyncpg.dialect(),  # type: ignore[no-untyped-call] # has no annotations
        compile_kwargs={"literal_binds": True},
    )
    return " ".join(str(compiled).split()).removeprefix("SELECT id, name ")


@pytest.mark.parametrize(
    ("order", "after", "expected"),
    [
        (Order("id"), None, "ORDER BY id ASC LIMIT 11"),
        (Order("id"), Cursor(7, 7), "WHERE ((id) > (7)) ORDER BY id ASC LIMIT 11"),
        (
            Order("id", descending=True),
            Cursor(7, 7),
            "WHERE ((id) < (7)) ORDER BY id DESC LIMIT 11",
        ),
        (Order("name"), None, "ORDER BY name ASC, id ASC LIMIT 11"),
        (
            Order("name"),
            Cursor("b", 7),
            "WHERE ((name, id) > ('b', 7)) ORDER BY name ASC, id ASC LIMIT 11",
        ),
        (
            Order("name", descending=True),
            Cursor("b", 7),
            "WHERE ((name, id) < ('b', 7)) ORDER BY name DESC, id DESC LIMIT 11",
        ),
    ],
)
def test_a_page_is_a_range_of_an_index_and_one_row_more(
    order: Order, after: Cursor | None, expected: str
) -> None:
    assert sql_of(Window(order, after, 10)) == expected


@pytest.mark.parametrize(
    ("field", "limit", "after"),
    [
        ("name", 1, Cursor("a", 1)),
        ("name", 2, Cursor("b", 9)),
        ("name", 3, Cursor("b", 12)),
        ("id", 2, Cursor(9, 9)),
        ("name", 4, None),
        ("name", 5, None),
    ],
)
def test_a_page_ends_where_the_next_one_starts(
    field: str, limit: int, after: Cursor | None
) -> None:
    made = page(ROWS[: limit + 1], Window(Order(field), None, limit), VALUES)
    assert made.rows == ROWS[:limit]
    assert made.next == after


def test_no_rows_are_the_last_page() -> None:
    window = Window(Order("name"), Cursor(5, 5), 3)
    assert page([], window, VALUES) == ([], None)
