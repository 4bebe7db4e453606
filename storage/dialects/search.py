"""How rows that contain a text are found.

PostgreSQL and SQLite keep the trigrams of a table's texts in an index, which answers from three
characters on. PostgreSQL's is asked for those that few texts have, and what it finds is held to the
whole. MariaDB has no such index, and reads rows until a page is full.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    String,
    and_,
    bindparam,
    column,
    func,
    inspect,
    literal_column,
    or_,
    select,
    table,
)

from storage.dialects import trigrams
from storage.dialects.sql import Spelt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select, SQLColumnExpression
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.models import Base
    from storage.sessions import Session

    Columns = Sequence[InstrumentedAttribute[str]]

_PART, _PATTERN, _PHRASE = "search", "search_pattern", "search_phrase"
_ESCAPE = "/"
# In the index's text of several columns, which `storage/models.py` has.
_BETWEEN: ColumnElement[str] = literal_column("' '", String)
# Rows that contain a text: to look so many up costs about as much as to walk, in the list's order,
# past all others until a page of them is full.
_COMMON = 2_000


class Way(Enum):
    """How rows are found."""

    ALL = auto()
    BY_TEXT = auto()
    BY_INDEX = auto()
    BY_PIECES = auto()
    BY_RARE_PIECES = auto()


class Search(NamedTuple):
    """A search for a text, as it is best made.

    Args:
        part: the text, folded as the columns are; empty for all rows.
        way: what its statement depends on.
        pieces: of the text, those that the index is asked for, in order.
    """

    part: str
    way: Way
    pieces: Sequence[str] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """What the statement is told of the text."""
        if self.way is Way.ALL:
            return {}
        escaped = (re.sub(f"[%_{_ESCAPE}]", rf"{_ESCAPE}\g<0>", each) for each in self.pieces)
        return {
            _PART: self.part,
            _PATTERN: f"%{'%'.join(escaped)}%",
            _PHRASE: _phrase(self.part),
        }


async def search(session: Session, columns: Columns, part: str) -> Search:
    """Returns how a text is best searched for.

    PostgreSQL decides by the text whether its index is worth it. SQLite does not: its index is
    asked first, in a statement of its own, whether the text is rare.

    Args:
        session: where it will be searched for.
        columns: of one table, those that its search index has.
        part: the text, folded as the columns are; empty for all rows.
    """
    if not part:
        return Search(part, Way.ALL)
    if session.dialect == "postgresql" and len(part) >= trigrams.LENGTH:
        known = await trigrams.known(session, columns)
        pieces = trigrams.pieces(part, known)
        if pieces and known.are_rare(pieces):
            return Search(part, Way.BY_RARE_PIECES, pieces)
        if pieces and pieces != [part]:
            return Search(part, Way.BY_PIECES, pieces)
    # A NUL would end the query of the index.
    if session.dialect != "sqlite" or len(part) < trigrams.LENGTH or "\0" in part:
        return Search(part, Way.BY_TEXT, [part])
    of: Any = columns[0].class_
    more: Select[*tuple[Any, ...]] = (
        _found_by_index(of).with_only_columns(literal_column("1")).limit(1).offset(_COMMON)
    )
    is_common = (await session.execute(more, {_PHRASE: _phrase(part)})).first() is not None
    return Search(part, Way.BY_TEXT if is_common else Way.BY_INDEX, [part])


def containing(columns: Columns, way: Way) -> list[ColumnElement[bool]]:
    """Returns the conditions that a column contains the text of a search, by code points.

    Args:
        columns: of one table, those that its search index has.
        way: of the search, whose parameters the statement takes.
    """
    if way is Way.ALL:
        return []
    contains = Spelt(
        postgresql=_contains(columns, way),
        mysql=or_(*(_is_like(each) for each in columns)),
        sqlite=or_(*(func.instr(each, bindparam(_PART)) > 0 for each in columns)),
    )
    if way is not Way.BY_INDEX:
        return [contains]
    of: Any = columns[0].class_
    (key,) = inspect(of).primary_key
    # The index takes what is no character, such as U+FFFE, for one and the same.
    return [and_(key.in_(_found_by_index(of)), contains)]


def in_no_order(columns: Columns, way: Way) -> SQLColumnExpression[Any] | None:
    """What keeps PostgreSQL from walking a list's order to what is rare; None for all else.

    It is to be sorted by first, and is the same for all rows. By its own statistics PostgreSQL
    cannot tell one row in a hundred from one in a million.
    """
    if way is not Way.BY_RARE_PIECES:
        return None
    # Never, which no planner can know.
    never: ColumnElement[bool] = func.strpos(columns[0], bindparam(_PART)) < 0
    return never


def _contains(columns: Columns, way: Way) -> ColumnElement[bool]:
    """The condition in PostgreSQL's words: all columns are one text in its index."""
    text: ColumnElement[str] | InstrumentedAttribute[str] = columns[0]
    for more in columns[1:]:
        text = text.concat(_BETWEEN).concat(more)
    found = _is_like(text)
    if len(columns) == 1 and way is Way.BY_TEXT:
        return found
    # Not `> 0`, which is taken to rule out two thirds of what the index finds.
    return and_(found, or_(*(func.strpos(each, bindparam(_PART)) != 0 for each in columns)))


def _is_like(text: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    return text.like(bindparam(_PATTERN), escape=_ESCAPE)


def _found_by_index(of: type[Base]) -> Select[*tuple[Any, ...]]:
    """Selects the ids that SQLite's search index of a table has for a text."""
    index = f"ix_{of.__tablename__}_search"
    ids: Select[*tuple[Any, ...]] = select(column("rowid")).select_from(table(index))
    return ids.where(column(index).match(bindparam(_PHRASE)))


def _phrase(part: str) -> str:
    # Between quotes everything is text, and a quote is two.
    return '"' + part.replace('"', '""') + '"'
