"""Which trigrams of a text PostgreSQL's index is worth asking for, and which are rare.

The index, pg_trgm's, has for each three characters of a word the list of rows that have them, and
reads the lists of all that it is asked for. A list that most rows are on tells next to nothing, and
a second list of the same word little more than the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence  # noqa: TC003 - NamedTuple keeps the annotations
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import func, literal_column, select, tablesample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import ColumnElement, Dialect, Select
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.sessions import Session

LENGTH = 3
# Seconds for which what was told is taken to hold.
_AGE = 60.0
# Rows that are looked at, about; the blocks that they are in are drawn.
_SAMPLE = 1000
# Shares of the texts, and how many tell of trigrams: at least, and about as many as are looked at.
_MANY, _MOST = 0.015, 0.25
_LEAST, _ENOUGH = 50, 200
# Rows that are looked at and have what is not rare.
_SOME = 5

_WORD = re.compile(r"[^\W_]+")
# What is no part of a text that is searched for: PostgreSQL takes none that has it.
_END = "\0"


class Known(NamedTuple):
    """What is known of the texts of a table, those of a row as one.

    Args:
        of_many: the trigrams that more than a few of them have.
        of_most: those that a good part of them have.
        texts: of some rows; none of a table of few rows.
        until: when to ask again, by the monotonic clock.
    """

    of_many: frozenset[str] = frozenset()
    of_most: frozenset[str] = frozenset()
    texts: Sequence[str] = ()
    until: float = 0.0

    def are_rare(self, pieces: Sequence[str]) -> bool:
        """Whether fewer than five of the rows that were looked at have all of these pieces."""
        found = self.texts
        for piece in pieces:
            found = [each for each in found if piece in each]
        return bool(self.texts) and len(found) < _SOME


# Of each database that is open, by the table.
_known: WeakKeyDictionary[Dialect, dict[str, Known]] = WeakKeyDictionary()


async def known(session: Session, columns: Sequence[InstrumentedAttribute[str]]) -> Known:
    """Returns what is known of a table's texts, as of a minute ago or later.

    Nothing is before PostgreSQL has looked at the table, nor while that has few rows.

    Args:
        session: where to ask, on PostgreSQL.
        columns: of the table.
    """
    tables = _known.setdefault(session.sql_dialect, {})
    name = columns[0].class_.__tablename__
    found = tables.get(name, Known())
    if monotonic() < found.until:
        return found
    until = monotonic() + _AGE
    # Whoever comes while this is asked takes what was known before.
    tables[name] = found._replace(until=until)
    rows = (await session.execute(_rows_of(columns))).all()
    if len(rows) < _LEAST:
        tables[name] = Known(until=until)
        return tables[name]
    texts = [_END.join(row) for row in rows]
    shares = _shares(texts)
    tables[name] = Known(_beyond(_MANY, shares), _beyond(_MOST, shares), texts, until)
    return tables[name]


def _rows_of(columns: Sequence[InstrumentedAttribute[str]]) -> Select[*tuple[Any, ...]]:
    """Selects some rows of a table: none before PostgreSQL has counted them.

    They are from all over it, unless it is more than twice as long as it was then.
    """
    table = columns[0].class_.__table__
    share: ColumnElement[float] = literal_column(
        f"(SELECT CASE WHEN reltuples > 0 THEN LEAST(100, {100 * _SAMPLE} / reltuples) ELSE 0 END"  # noqa: S608 - names of Byline's own
        f" FROM pg_class WHERE oid = to_regclass('{table.name}'))"
    )
    sampled = tablesample(table, func.system(share))
    return select(*(sampled.c[column.key] for column in columns)).limit(2 * _SAMPLE)


def pieces(part: str, known: Known) -> list[str]:
    """Returns the pieces of a text that the index is to be asked for.

    They do not overlap and are in order: what contains the text has them one after the other. None
    of them has a trigram that most have; as far as that allows, all that few have are in them, and
    enough others to cover each word. There are none where most have all that the text has.
    """
    spans: list[tuple[int, int]] = []
    is_whole = False
    for start, trigram in _within(part):
        stop = start + LENGTH
        if trigram in known.of_most:
            is_whole = False
        elif not spans or start >= spans[-1][1]:
            spans.append((start, stop))
            is_whole = True
        elif is_whole and trigram not in known.of_many:
            spans[-1] = spans[-1][0], stop
    return [part[start:stop] for start, stop in spans]


def _within(part: str) -> Iterator[tuple[int, str]]:
    """Returns trigrams of a text that may go on at both ends, each with where it begins.

    Those at the ends of words take in what is around them, and are only of words that have no
    others.
    """
    for word in _WORD.finditer(part):
        start, stop = word.span()
        if stop - start >= LENGTH:
            yield from enumerate(_windows(word[0]), start)
        elif stop - start == LENGTH - 1 and start > 0:
            yield start - 1, f" {word[0]}"
        elif stop - start == LENGTH - 1 and stop < len(part):
            yield start, f"{word[0]} "


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """Returns how many of the texts have each trigram, as a share of them."""
    texts = texts[:: max(1, len(texts) // _ENOUGH)]
    counts = Counter(chain.from_iterable(set(all_of(each)) for each in texts))
    return {trigram: count / len(texts) for trigram, count in counts.items()}


def _beyond(least: float, shares: Mapping[str, float]) -> frozenset[str]:
    """Returns the trigrams that more than a share of the texts have."""
    return frozenset(trigram for trigram, share in shares.items() if share > least)


def all_of(text: str) -> Iterator[str]:
    """Returns the trigrams that the index has of a text: the ends of words are blanks in them."""
    for word in _WORD.findall(text):
        yield from _windows(f"  {word} ")


def _windows(text: str) -> Iterator[str]:
    return (text[at : at + LENGTH] for at in range(len(text) - LENGTH + 1))
