"""All SQL about posts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - NamedTuple keeps the annotations
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    Select,
    bindparam,
    case,
    func,
    insert,
    not_,
    null,
    select,
    true,
)
from sqlalchemy import (
    delete as sql_delete,
)
from sqlalchemy import (
    update as sql_update,
)

from storage import keyset, tags, users
from storage.casefold import fold
from storage.dialects.at_once import AtOnce
from storage.dialects.rows import named, new_values
from storage.dialects.search import Way, containing, in_no_order, search
from storage.dialects.sql import (
    changed_at,
    is_one_of,
    is_one_of_any_length,
    moment_after,
    planned_for_its_values,
)
from storage.dialects.types import clock
from storage.errors import NotFound, Stale, TooManyTags
from storage.making import maker
from storage.models import Post, PostTag, User
from storage.moments import EPOCH, Moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Update
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.database import Transaction
    from storage.dialects.search import Search
    from storage.sessions import Session
    from storage.tags import TagRow


class PostRow(NamedTuple):
    """A post as the summary view shows it, and the rest where a view loads it."""

    id: int
    author_id: int
    title: str
    published: bool
    created_at: Moment
    updated_at: Moment
    published_at: Moment | None
    content: str = ""
    author: users.UserRow | None = None
    tags: Sequence[TagRow] = ()


class Filter(NamedTuple):
    """Conditions that must all hold; None and "" stand for no condition.

    Args:
        author_id: posts by this author only.
        published: published posts only, or unpublished posts only.
        tag: posts with the tag of this name only, without regard to case.
        query: a substring of the title, without regard to case.
        created_after: posts created after this moment, not at it.
        created_before: posts created before this moment, not at it.
    """

    author_id: int | None = None
    published: bool | None = None
    tag: str = ""
    query: str = ""
    created_after: Moment | None = None
    created_before: Moment | None = None

    @property
    def shape(self) -> Filter:
        """What it has in common with all filters that the same conditions are for."""
        return self._replace(
            author_id=None if self.author_id is None else 0,
            tag="tag" if self.tag else "",
            query="",
            created_after=self.created_after and EPOCH,
            created_before=self.created_before and EPOCH,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """What the conditions are told of this one, but for the tag and the query."""
        told: dict[str, Any] = {
            "created_after": self.created_after,
            "created_before": self.created_before,
            "author_ids": None if self.author_id is None else [self.author_id],
        }
        return {name: value for name, value in told.items() if value is not None}


class NewPost(NamedTuple):
    """What a post is made of."""

    author_id: int
    title: str
    content: str = ""
    published: bool = False
    tags: Sequence[str] = ()


# As many as a request can name: what is read can be written back.
MOST_TAGS = 50

# What the summary in `PostRow` is made of, for others who select posts.
COLUMNS = (
    Post.id,
    Post.author_id,
    Post.title,
    Post.published,
    Post.created_at,
    Post.updated_at,
    Post.published_at,
)
_WIDTH = len(COLUMNS)
_made_of = maker(PostRow)
_SUMMARY: Select[*tuple[Any, ...]] = select(*COLUMNS)
_WITH_CONTENT: Select[*tuple[Any, ...]] = select(*COLUMNS, Post.content)

_SEARCHED = (Post.title_key,)
_INSERT = insert(Post).returning(*COLUMNS)
_INSERT_PUBLISHED = insert(Post).values({Post.published_at: clock()}).returning(*COLUMNS)


def _create() -> Select[*tuple[Any, ...]]:
    """Adds a post, if its author and all of its tags are there, and tells it in full."""
    values: dict[Any, Any] = new_values(
        Post, ["author_id", "title", "title_key", "content", "published"]
    )
    values[Post.published_at] = case((values[Post.published], clock()))
    author, found = users.locked_now(values[Post.author_id]), tags.locked_now()
    are_all = select(func.count()).select_from(found).scalar_subquery() == bindparam("tags")
    post = (
        insert(Post)
        .from_select(list(values), select(*values.values()).select_from(author).where(are_all))
        .returning(*COLUMNS, Post.content)
        .cte("post")
    )
    links = {PostTag.post_id: post.c.id, PostTag.tag_id: found.c.id}
    linked = insert(PostTag).from_select(
        list(links), select(*links.values()).join_from(post, found, true())
    )
    told = select(*post.c, *author.c, tags.all_of(found)).select_from(post).join(author, true())
    return told.add_cte(linked.cte())


_CREATE = AtOnce(_create())

_PLANNED_FOR_ITS_VALUES = planned_for_its_values(Post)

_ORDER_COLUMNS: Mapping[str, InstrumentedAttribute[Any]] = {
    "id": Post.id,
    "created_at": Post.created_at,
    "title": Post.title_key,
}
_ORDER_VALUES = {
    "id": lambda row: row.id,
    "created_at": lambda row: row.created_at,
    "title": lambda row: fold(row.title),
}


async def create(tx: Transaction, new: NewPost) -> PostRow:
    """Adds a post and those of its tags that there are not yet.

    Raises:
        NotFound: when there is no such author.
    """
    values = {
        "author_id": new.author_id,
        "title": new.title,
        "title_key": fold(new.title),
        "content": new.content,
        "published": new.published,
    }
    keys = list(tags.by_key(new.tags))
    if rows := await _CREATE.execute(tx, named(values) | {"keys": keys, "tags": len(keys)}):
        return _to_full(rows[0])
    author = await users.get_for_key_share(tx, new.author_id)
    # Before the post, since adding that locks the author's count: tags may have to be waited for.
    found = await tags.ensure(tx, new.tags)
    row = (await tx.execute(_INSERT_PUBLISHED if new.published else _INSERT, values)).one()
    post = to_summary(row)._replace(content=new.content, author=author)
    await tags.link(tx, post.id, found)
    return post._replace(tags=[found[key] for key in sorted(found)])


async def get(read: Session, post_id: int, *, full: bool = True) -> PostRow:
    """Returns one post.

    Raises:
        NotFound: when there is none.
    """
    found = await batch_get(read, [post_id], full=full)
    if not found:
        raise NotFound("post", post_id)
    return found[post_id]


async def batch_get(read: Session, ids: Sequence[int], *, full: bool = False) -> dict[int, PostRow]:
    """Returns those of the posts that there are, by id, in one statement."""
    rows = await _load(read, _find_all(full=full), {"ids": ids}, full=full)
    return {row.id: row for row in rows}


async def list_page(
    read: Session, where: Filter, window: keyset.Window, *, full: bool = False
) -> keyset.Page[PostRow]:
    """Returns a page of the posts that match: one statement, one more by tag.

    A search is one more, as for users.

    Args:
        read: where to read.
        where: which posts.
        window: which page, ordered by `id`, `created_at` or `title`: titles by the code points of
            their folded form.
        full: loads content, authors and tags too.
    """
    found = await search(read, _SEARCHED, fold(where.query))
    told = await _told(read, where, found)
    if told is None:
        return keyset.Page([], None)
    statement = _page(where.shape, found.way, window.shape, full=full)
    rows = await _load(read, statement, {**told, **window.parameters}, full=full)
    return keyset.page(rows, window, _ORDER_VALUES)


async def count(read: Session, where: Filter) -> int:
    """Returns how many posts match: one statement, two by tag.

    A search is one more, as for users.
    """
    found = await search(read, _SEARCHED, fold(where.query))
    told = await _told(read, where, found)
    if told is None:
        return 0
    counted = _matching(select(func.count()).select_from(Post), where, found.way)
    total: int = (await read.execute(counted, told)).scalar_one()
    return total


async def update(
    tx: Transaction,
    post_id: int,
    changes: Mapping[str, Any],
    *,
    unchanged_since: Moment | None = None,
) -> PostRow:
    """Changes a post. `updated_at` moves only if a value or the set of tags differs.

    Args:
        tx: the transaction.
        post_id: which post.
        changes: new values of `title`, `content` or `published`, or all names of `tags`.
        unchanged_since: when set, must be the post's current `updated_at`.

    Raises:
        NotFound: when there is no such post.
        Stale: when the post has changed since `unchanged_since`.
    """
    values = {name: value for name, value in changes.items() if name != "tags"}
    moves = False
    if "tags" in changes:
        # Before the one update of the row: a second would have the database check the author
        # again, and lock them while it has the post, the other way round than their deletion does.
        await _lock(tx, post_id, unchanged_since=unchanged_since)
        moves = await tags.replace(tx, post_id, changes["tags"]) > 0
    keys = {"title_key": fold(changes["title"])} if "title" in changes else {}
    statement = _change(
        tuple(sorted(values)),
        published=changes.get("published"),
        moves=moves,
        conditional=unchanged_since is not None,
    )
    told = {"key": post_id, "since": unchanged_since, **named({**values, **keys})}
    if (await tx.execute(statement, told)).rowcount == 0:
        raise await _why_missed(tx, post_id, unchanged_since)
    return await get(tx, post_id)


async def add_tags(tx: Transaction, post_id: int, names: Iterable[str]) -> PostRow:
    """Gives a post tags. `updated_at` moves only if it did not have them all.

    Raises:
        NotFound: when there is no such post.
        TooManyTags: when the post would have more than `MOST_TAGS`.
    """
    await _lock(tx, post_id)
    if await tags.attach(tx, post_id, names):
        await _touch(tx, post_id)
    row = await get(tx, post_id)
    if len(row.tags) > MOST_TAGS:
        raise TooManyTags(MOST_TAGS)
    return row


async def remove_tags(tx: Transaction, post_id: int, names: Iterable[str]) -> PostRow:
    """Takes tags from a post. `updated_at` moves only if it had any of them.

    Raises:
        NotFound: when there is no such post.
    """
    await _lock(tx, post_id)
    if await tags.detach(tx, post_id, names):
        await _touch(tx, post_id)
    return await get(tx, post_id)


async def delete(tx: Transaction, post_id: int, *, unchanged_since: Moment | None = None) -> None:
    """Removes a post and, by the database's cascade, its links to tags.

    Raises:
        NotFound: when there is no such post.
        Stale: when the post has changed since `unchanged_since`.
    """
    statement = sql_delete(Post).where(*_unchanged(post_id, unchanged_since))
    if (await tx.execute(statement)).rowcount == 0:
        raise await _why_missed(tx, post_id, unchanged_since)


async def _load(
    read: Session,
    statement: Select[*tuple[Any, ...]],
    parameters: Mapping[str, Any],
    *,
    full: bool,
) -> list[PostRow]:
    """Reads posts as their summary or in full."""
    selected = (await read.execute(statement, parameters)).all()
    return list(map(_to_full if full else to_summary, selected))


@cache
def _find_all(*, full: bool) -> Select[*tuple[Any, ...]]:
    """Selects the posts with some ids."""
    found = (_WITH_CONTENT if full else _SUMMARY).where(is_one_of_any_length(Post.id, "ids"))
    return _in_full(found) if full else found


@lru_cache(keyset.SHAPES)
def _page(
    where: Filter, way: Way, window: keyset.Window, *, full: bool
) -> Select[*tuple[Any, ...]]:
    """Selects a page of the posts that match."""
    matching = _matching(_WITH_CONTENT if full else _SUMMARY, where, way)
    columns, within = _ORDER_COLUMNS, in_no_order(_SEARCHED, way)
    if where.tag and window.order.field == "id":
        columns, within = {"id": PostTag.post_id}, PostTag.tag_id
    elif where.author_id is not None and window.order.field != "title":
        within = Post.author_id
    page = keyset.paged(matching, window, columns, within=within)
    return _in_full(page, window) if full else page


@cache
def _change(
    fields: tuple[str, ...], *, published: bool | None, moves: bool, conditional: bool
) -> Update:
    """Gives fields of a post new values.

    Args:
        fields: which of them.
        published: what it is to be, where it is among them.
        moves: whether `updated_at` moves though no field differs.
        conditional: whether the post must not have changed since.
    """
    values: dict[Any, Any] = new_values(Post, fields)
    stamp = moment_after(Post.updated_at) if moves else changed_at(Post.updated_at, values)
    if "title" in fields:
        values |= new_values(Post, ["title_key"])
    if published is not None:
        values[Post.published_at] = _published_at(published=published)
    statement = sql_update(Post).where(Post.id == bindparam("key"))
    if conditional:
        statement = statement.where(Post.updated_at == bindparam("since"))
    return statement.values({**values, Post.updated_at: stamp})


def _in_full(
    statement: Select[*tuple[Any, ...]], window: keyset.Window | None = None
) -> Select[*tuple[Any, ...]]:
    """Adds content, authors and tags to selected posts: none is read for a post not among them.

    Args:
        statement: selects the posts.
        window: how they are sorted, if they are.
    """
    posts = statement.add_columns(Post.title_key).subquery()
    of_post = (*(posts.c[column.key] for column in (*COLUMNS, Post.content)), *users.COLUMNS)
    found = select(*of_post, tags.of_post(posts.c.id)).join_from(
        posts, User, User.id == posts.c.author_id
    )
    if window is None:
        return found
    order = {field: posts.c[column.key] for field, column in _ORDER_COLUMNS.items()}
    return found.order_by(*keyset.order_by(window.order, order))


def to_summary(row: Sequence[Any]) -> PostRow:
    """Reads a row of `_SUMMARY`."""
    return PostRow(*row)


def _to_full(row: Sequence[Any]) -> PostRow:
    """Reads a row of a statement that is `_in_full`."""
    author = users.made_of((*row[_WIDTH + 1 : -1], None))
    return _made_of((*row[: _WIDTH + 1], author, tags.read_of_post(row[-1])))


async def _told(read: Session, where: Filter, found: Search) -> dict[str, Any] | None:
    """Returns what `_matching` is told; None when there is no such tag.

    The tag is looked up on its own: only of a known one can the database know how many posts it
    is on, and plan for that.
    """
    told = {**where.parameters, **found.parameters}
    if not where.tag:
        return told
    tag_id = await tags.find_id(read, where.tag)
    return None if tag_id is None else {**told, "tag_ids": [tag_id]}


def _matching(
    statement: Select[*tuple[Any, ...]], where: Filter, way: Way
) -> Select[*tuple[Any, ...]]:
    """Narrows a statement to the posts that match."""
    statement = statement.where(*_conditions(where, way))
    if not where.tag:
        return statement
    joined = statement.join(PostTag, PostTag.post_id == Post.id)
    return joined.where(is_one_of(PostTag.tag_id, "tag_ids"))


def _conditions(where: Filter, way: Way) -> list[ColumnElement[bool]]:
    conditions = containing(_SEARCHED, way)
    if where.author_id is not None:
        # And not `=`: see `keyset.paged` about `within`.
        conditions.append(is_one_of(Post.author_id, "author_ids"))
    if where.published is not None:
        # As the predicates of the partial indexes are written.
        published = Post.published.expression
        conditions.append(published if where.published else not_(published))
    if where.created_after is not None:
        conditions.append(Post.created_at > bindparam("created_after"))
    if where.created_before is not None:
        conditions.append(Post.created_at < bindparam("created_before"))
    if way is not Way.ALL or where._replace(published=None) != Filter():
        conditions.append(_PLANNED_FOR_ITS_VALUES)
    return conditions


def _published_at(*, published: bool) -> ColumnElement[Any]:
    """When the post was published: as it was while it stays so, none while it is not."""
    if not published:
        return null()
    return case((Post.published, Post.published_at), else_=moment_after(Post.updated_at))


def _unchanged(post_id: int, since: Moment | None) -> list[ColumnElement[bool]]:
    conditions = [Post.id == post_id]
    if since is not None:
        conditions.append(Post.updated_at == since)
    return conditions


async def _why_missed(tx: Transaction, post_id: int, since: Moment | None) -> NotFound | Stale:
    """Tells why no row matched `_unchanged`."""
    if since is None:
        # A row that is there by this time came after it was looked for.
        return NotFound("post", post_id)
    found = (await tx.execute(select(Post.id).where(Post.id == post_id))).one_or_none()
    return NotFound("post", post_id) if found is None else Stale("post", post_id)


async def _lock(tx: Transaction, post_id: int, *, unchanged_since: Moment | None = None) -> None:
    """Keeps others from changing the post while the transaction lasts.

    Raises:
        NotFound: when there is no such post.
        Stale: when the post has changed since `unchanged_since`.
    """
    matching = select(Post.id).where(*_unchanged(post_id, unchanged_since))
    found = await tx.execute(matching.with_for_update(key_share=True))
    if found.one_or_none() is None:
        raise await _why_missed(tx, post_id, unchanged_since)


async def _touch(tx: Transaction, post_id: int) -> None:
    """Moves `updated_at` for a change beside the post's own row."""
    stamp = {Post.updated_at: moment_after(Post.updated_at)}
    await tx.execute(sql_update(Post).where(Post.id == post_id).values(stamp))
