"""All SQL about tags, and about which posts have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update

from storage import keyset
from storage.casefold import fold
from storage.dialects.nested import read_rows, rows_of
from storage.dialects.rows import insert_missing
from storage.dialects.sql import (
    changed_at,
    is_looked_up,
    is_one_of,
    is_one_of_any_length,
    joined_count,
    looked_up_by,
)
from storage.errors import NotFound, Stale
from storage.making import maker
from storage.models import PostTag, Tag
from storage.moments import Moment  # noqa: TC001 - NamedTuple keeps the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import CTE, ColumnElement

    from storage.database import Transaction
    from storage.sessions import Session

# What follows a prefix sorts before this: no name is as long.
_AFTER_ALL = "\U0010ffff" * 51


class TagRow(NamedTuple):
    """A tag, and how many posts have it where that was counted."""

    id: int
    name: str
    updated_at: Moment
    post_count: int | None = None


class Key(NamedTuple):
    """One way to name a single tag. Names match without regard to case."""

    field: Literal["id", "name"]
    value: int | str


_COLUMNS = (Tag.id, Tag.name, Tag.updated_at)
_made_of = maker(TagRow)
_POST_COUNT = (
    select(func.count()).where(PostTag.tag_id == Tag.id).scalar_subquery().label("post_count")
)
_COUNTED = select(*_COLUMNS, _POST_COUNT)

_WITH_KEYS = select(Tag.name_key, *_COLUMNS).where(is_one_of(Tag.name_key, "keys"))
_LOCK = looked_up_by(
    "uq_tags_name_key",
    _WITH_KEYS.order_by(Tag.name_key).with_for_update(read=True, key_share=True),
    Tag,
)
_NAMED = select(Tag.id).where(is_one_of(Tag.name_key, "names"))
_OF_POST = sql_delete(PostTag).where(PostTag.post_id == bindparam("post"))
_DETACH = _OF_POST.where(PostTag.tag_id.in_(_NAMED))
_DETACH_OTHERS = _OF_POST.where(PostTag.tag_id.not_in(_NAMED))

_ORDER_VALUES = {
    "id": lambda row: row.id,
    "name": lambda row: key_of(row.name),
    "post_count": lambda row: row.post_count,
}


def key_of(name: str) -> str:
    """Returns what makes two names the same tag: the name without outer spaces, case-folded."""
    return fold(name.strip())


def by_key(names: Iterable[str]) -> dict[str, str]:
    """Returns names as tags have them, by key: of the names of one tag the first."""
    wanted: dict[str, str] = {}
    for name in names:
        wanted.setdefault(key_of(name), name.strip())
    return wanted


async def ensure(tx: Transaction, names: Iterable[str]) -> dict[str, TagRow]:
    """Adds the tags that there are not yet, and returns all of them by `key_of` their name.

    Names of the same tag count once, as the first of them is written. Callers who add the same
    tags at once all succeed: they wait for each other, in the order of the keys. Nobody can delete
    the tags while the transaction lasts.
    """
    wanted = by_key(names)
    if not wanted:
        return {}
    found = await _lock(tx, sorted(wanted))
    # Once more if a tag is deleted between its being there already and its being locked.
    while missing := sorted(wanted.keys() - found.keys()):
        names_of_missing = [wanted[key] for key in missing]
        columns = {Tag.name: names_of_missing, Tag.name_key: missing}
        await insert_missing(tx, Tag, columns)
        found |= await _lock(tx, missing)
    return found


async def create(tx: Transaction, names: Sequence[str]) -> list[TagRow]:
    """Adds the tags that there are not yet, and returns the tag of each name, counted, in order."""
    found = await ensure(tx, names)
    statement = _COUNTED.where(is_one_of_any_length(Tag.id, "ids"))
    result = await tx.execute(statement, {"ids": [tag.id for tag in found.values()]})
    counted = {row.id: TagRow._make(row) for row in result}
    return [counted[found[key_of(name)].id] for name in names]


async def get(read: Session, key: Key) -> TagRow:
    """Returns one tag and how many posts have it.

    Raises:
        NotFound: when there is none.
    """
    is_it = Tag.id == key.value if key.field == "id" else Tag.name_key == key_of(str(key.value))
    row = (await read.execute(_COUNTED.where(is_it))).one_or_none()
    if row is None:
        raise NotFound("tag", key.value)
    return TagRow._make(row)


async def find_id(read: Session, name: str) -> int | None:
    """Returns the id of the tag of this name, or None when there is none."""
    statement = select(Tag.id).where(Tag.name_key == key_of(name))
    found: int | None = (await read.execute(statement)).scalar_one_or_none()
    return found


async def list_page(read: Session, prefix: str, window: keyset.Window) -> keyset.Page[TagRow]:
    """Returns a page of tags, each with how many posts have it, in one statement.

    By name, only the tags of the page are counted. By count, all of them are: see
    docs/decisions/0001-post-counts.md.

    Args:
        read: where to read.
        prefix: how the names start, without regard to case; empty for all tags.
        window: which page, ordered by `name` or `post_count`.
    """
    first = fold(prefix)
    if window.order.field == "post_count":
        statement = _by_count(read.dialect, first, window)
    else:
        statement = _by_name(first, window)
    result = await read.execute(statement, window.parameters)
    return keyset.page([TagRow._make(row) for row in result], window, _ORDER_VALUES)


async def update(
    tx: Transaction,
    tag_id: int,
    changes: Mapping[str, Any],
    *,
    unchanged_since: Moment | None = None,
) -> TagRow:
    """Changes a tag. `updated_at` moves only if the name differs from what it was.

    Args:
        tx: the transaction.
        tag_id: which tag.
        changes: the new `name`.
        unchanged_since: when set, must be the tag's current `updated_at`.

    Raises:
        NotFound: when there is no such tag.
        Stale: when the tag has changed since `unchanged_since`.
        AlreadyExists: when the name is another tag's.
    """
    values: dict[Any, Any] = {}
    if "name" in changes:
        values = {Tag.name: changes["name"].strip()}
    stamp = changed_at(Tag.updated_at, values)
    if values:
        values[Tag.name_key] = key_of(changes["name"])
    statement = sql_update(Tag).where(Tag.id == tag_id)
    if unchanged_since is not None:
        statement = statement.where(Tag.updated_at == unchanged_since)
    changed = (await tx.execute(statement.values({**values, Tag.updated_at: stamp}))).rowcount
    if not changed and unchanged_since is None:
        raise NotFound("tag", tag_id)
    row = await get(tx, Key("id", tag_id))
    if not changed:
        raise Stale("tag", tag_id)
    return row


async def delete(tx: Transaction, tag_id: int) -> None:
    """Removes a tag and, by the database's cascade, its links to posts.

    Raises:
        NotFound: when there is no such tag.
    """
    if (await tx.execute(sql_delete(Tag).where(Tag.id == tag_id))).rowcount == 0:
        raise NotFound("tag", tag_id)


async def attach(tx: Transaction, post_id: int, names: Iterable[str]) -> int:
    """Gives a post tags, made where there are none, and returns how many it did not have."""
    return await link(tx, post_id, await ensure(tx, names))


async def link(tx: Transaction, post_id: int, found: Mapping[str, TagRow]) -> int:
    """Gives a post tags that `ensure` returned, and returns how many it did not have."""
    if not found:
        return 0
    tag_ids = sorted(tag.id for tag in found.values())
    links = {PostTag.post_id: [post_id] * len(tag_ids), PostTag.tag_id: tag_ids}
    return (await insert_missing(tx, PostTag, links)).rowcount


async def detach(tx: Transaction, post_id: int, names: Iterable[str]) -> int:
    """Takes tags from a post and returns how many of them it had."""
    told = {"post": post_id, "names": [key_of(name) for name in names]}
    return (await tx.execute(_DETACH, told)).rowcount


async def replace(tx: Transaction, post_id: int, names: Sequence[str]) -> int:
    """Makes these the tags of a post and returns how many came or went."""
    told = {"post": post_id, "names": [key_of(name) for name in names]}
    gone = (await tx.execute(_DETACH_OTHERS, told)).rowcount
    return gone + await attach(tx, post_id, names)


def of_post(post_id: ColumnElement[int]) -> ColumnElement[str | None]:
    """The tags of each post that is selected, as one column; `read_of_post` reads it."""
    of_its = is_looked_up(Tag.id, PostTag.tag_id)
    found = select(Tag).join(PostTag, of_its).where(PostTag.post_id == post_id)
    return rows_of(found, (Tag.name_key, *_COLUMNS))


def locked_now() -> CTE:
    """PostgreSQL: tags with the parameter `keys`, locked against deletion if nobody is at that."""
    return _WITH_KEYS.with_for_update(read=True, key_share=True, skip_locked=True).cte("found")


def all_of(found: CTE) -> ColumnElement[str | None]:
    """All tags of `locked_now`, as one column; `read_of_post` reads it."""
    return rows_of(select(found), (found.c.name_key, *(found.c[each.key] for each in _COLUMNS)))


def read_of_post(value: str | None) -> list[TagRow]:
    """Reads a column that is `of_post`: the tags by name."""
    rows = read_rows(value)
    rows.sort()
    return [_made_of((tag_id, name, updated_at, None)) for _, tag_id, name, updated_at in rows]


def _by_name(first: str, window: keyset.Window) -> Select[*tuple[Any, ...]]:
    """A page of tags whose keys start so, by name, and the counts of these alone."""
    last, descending = first + _AFTER_ALL, window.order.descending
    # A plan for any two bounds expects few tags between them, and sorts all that there are: so one
    # bound is where the walk through the index starts, and the other is held to what it meets.
    bound = Tag.name_key < last if descending else Tag.name_key >= first
    columns = {"id": Tag.id, "name": Tag.name_key}
    walked = select(*_COLUMNS, Tag.name_key).where(bound)
    page = keyset.paged(walked, window, columns).subquery()
    key = page.c.name_key
    count = select(func.count()).where(PostTag.tag_id == page.c.id).scalar_subquery()
    statement = select(*(page.c[column.key] for column in _COLUMNS), count)
    return statement.where(key >= first if descending else key < last).order_by(
        *keyset.order_by(window.order, {"id": page.c.id, "name": key})
    )


def _by_count(dialect: str, first: str, window: keyset.Window) -> Select[*tuple[Any, ...]]:
    """A page of tags whose keys start so, by count, for which all of theirs are counted."""
    counts = select(func.count().label("posts")).where(PostTag.tag_id == Tag.id)
    statement, columns = joined_count(dialect, (*_COLUMNS, Tag.name_key), counts)
    if first:
        key = columns["name_key"]
        statement = statement.where(key >= first, key < first + _AFTER_ALL)
    wanted = [columns[each.key] for each in _COLUMNS]
    statement = statement.with_only_columns(*wanted, columns["count"], maintain_column_froms=True)
    return keyset.paged(statement, window, {"id": columns["id"], "post_count": columns["count"]})


async def _lock(tx: Transaction, keys: Sequence[str]) -> dict[str, TagRow]:
    """Returns the tags that there are, by key, locked against deletion."""
    rows = (await tx.execute(_LOCK, {"keys": keys})).all()
    return {row[0]: _to_row(row[1:]) for row in rows}


def _to_row(row: Sequence[Any]) -> TagRow:
    """Reads a row of `_COLUMNS`."""
    return TagRow(*row)
