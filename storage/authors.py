"""All SQL about users as those who write: who does, how much, and what lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - NamedTuple keeps the annotations
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import case, func, select

from storage import keyset, posts
from storage.dialects.sql import first_of_each, is_one_of_any_length
from storage.errors import NotFound
from storage.models import Post, User, UserPostCount
from storage.moments import Moment  # noqa: TC001 - NamedTuple keeps the annotations

if TYPE_CHECKING:
    from storage.sessions import Session

# The newest posts that `recent` reads of each author.
NEWEST = 20

_COUNTS = select(UserPostCount.user_id, UserPostCount.post_count).where(
    is_one_of_any_length(UserPostCount.user_id, "user_ids")
)


class PostCountRow(NamedTuple):
    """How many posts a user has written."""

    user_id: int
    username: str
    post_count: int


class Statistics(NamedTuple):
    """What a user's posts amount to; the moments are None when there are none."""

    post_count: int
    published_post_count: int
    first_post_at: Moment | None
    last_post_at: Moment | None


class Recent(NamedTuple):
    """How many posts each user has, and the newest of them, newest first, by user id."""

    counts: Mapping[int, int]
    newest: Mapping[int, Sequence[posts.PostRow]]


async def list_post_counts(read: Session, window: keyset.Window) -> keyset.Page[PostCountRow]:
    """Returns a page of how many posts each user has, ordered by `id` or `post_count`."""
    counts = select(UserPostCount.user_id, UserPostCount.post_count)
    columns = {"id": UserPostCount.user_id, "post_count": UserPostCount.post_count}
    page = keyset.paged(counts, window.shape, columns).subquery().c
    # Only the users of the page: joined before, all with lower ids would be walked past.
    statement = (
        select(page.user_id, User.username, page.post_count)
        .join(User, User.id == page.user_id)
        .order_by(
            *keyset.order_by(window.order, {"id": page.user_id, "post_count": page.post_count})
        )
    )
    values = {"id": lambda row: row.user_id, "post_count": lambda row: row.post_count}
    result = await read.execute(statement, window.parameters)
    return keyset.page([PostCountRow._make(row) for row in result], window, values)


async def statistics(read: Session, user_id: int) -> Statistics:
    """Returns what a user's posts amount to, in one statement.

    Raises:
        NotFound: when there is no such user.
    """
    statement = (
        select(
            func.count(Post.id),
            func.count(case((Post.published, Post.id))),
            func.min(Post.created_at),
            func.max(Post.created_at),
        )
        .select_from(User)
        .outerjoin(User.posts)
        .where(User.id == user_id)
        .group_by(User.id)
    )
    row = (await read.execute(statement)).one_or_none()
    if row is None:
        raise NotFound("user", user_id)
    return Statistics._make(row)


async def recent(read: Session, user_ids: Sequence[int]) -> Recent:
    """Returns the users' newest posts and how many each has, in two statements.

    Only the newest posts are read, however many an author has.
    """
    told = {"user_ids": user_ids}
    counts = {row.user_id: row.post_count for row in await read.execute(_COUNTS, told)}
    statement = first_of_each(
        read.dialect,
        posts.COLUMNS,
        Post.author_id,
        User.id,
        "user_ids",
        (Post.created_at, Post.id),
        NEWEST,
    )
    written: dict[int, list[posts.PostRow]] = {}
    for row in await read.execute(statement, told):
        written.setdefault(row.author_id, []).append(posts.to_summary(row))
    return Recent(counts, written)
