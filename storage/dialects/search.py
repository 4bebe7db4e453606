"""How rows that contain a text are found.

PostgreSQL and SQLite keep the trigrams of a table's texts in an index, which answers from three
characters on. MariaDB has none, and reads rows until a page is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, column, func, inspect, literal_column, or_, select, table

from storage.dialects.sql import Spelt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.database import Session

# What the indexes keep is as long.
_TRIGRAM = 3
# Rows that contain a text: to look so many up costs about as much as to walk, in the list's order,
# past all others until a page of them is full.
_COMMON = 2_000


async def containing(
    session: Session, columns: Sequence[InstrumentedAttribute[str]], part: str
) -> ColumnElement[bool]:
    """Returns the condition that a column contains a text, code point by code point.

    PostgreSQL decides by the text whether its index is worth it. SQLite does not: its index is
    asked first, in a statement of its own, whether the text is rare.

    Args:
        session: where the condition will be asked for.
        columns: of one table, those that its search index has.
        part: the text, folded as the columns are; not empty.
    """
    contains = or_(*(_contains(each, part) for each in columns))
    # A NUL would end the query of the index.
    if session.dialect != "sqlite" or len(part) < _TRIGRAM or "\0" in part:
        return contains
    found = _found_by_sqlite(columns[0].class_.__tablename__, part)
    more: Select[*tuple[Any, ...]] = (
        found.with_only_columns(literal_column("1")).limit(1).offset(_COMMON)
    )
    if (await session.execute(more)).first() is not None:
        return contains
    (key,) = inspect(columns[0].class_).primary_key
    # The index takes what is no character, such as U+FFFE, for one and the same.
    return and_(key.in_(found), contains)


def _contains(text: InstrumentedAttribute[str], part: str) -> ColumnElement[bool]:
    like = text.contains(part, autoescape=True)
    return Spelt(postgresql=like, mysql=like, sqlite=func.instr(text, part) > 0)


def _found_by_sqlite(name: str, part: str) -> Select[*tuple[Any, ...]]:
    """Selects the ids that the search index of a table has for a text."""
    index = f"ix_{name}_search"
    # Between quotes everything is text, and a quote is two.
    phrase = '"' + part.replace('"', '""') + '"'
    ids: Select[*tuple[Any, ...]] = select(column("rowid")).select_from(table(index))
    return ids.where(column(index).match(phrase))
