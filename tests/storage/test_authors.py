"""SQL about users as those who write, and the counts that triggers keep."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from storage import authors, posts, tags, users
from storage.authors import PostCountRow, Statistics
from storage.casefold import fold
from storage.errors import Contention, NotFound
from storage.keyset import Order, Window
from storage.models import Post
from storage.moments import SECOND
from tests import factories
from tests.onlookers import until_waiting_for_a_lock
from tests.paging import all_pages, in_order, listed, orders
from tests.statements import post_counts, run, sent_by, set_moments

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.database import Database, Transaction
    from storage.users import UserRow
    from tests.paging import Fetch

ORDERS = orders("id", "post_count")
VALUES: dict[str, Callable[[PostCountRow], Any]] = {
    "id": lambda row: row.user_id,
    "post_count": lambda row: row.post_count,
}
AUTHORS = users.Filter(has_published=True)


def fetch_counts(db: Database) -> Fetch[PostCountRow]:
    async def page(window: Window) -> Any:  # noqa: ANN401 - a page of counts
        async with db.read() as read:
            return await authors.list_post_counts(read, window)

    return page


def fetch_authors(db: Database) -> Fetch[UserRow]:
    async def page(window: Window) -> Any:  # noqa: ANN401 - a page of users
        async with db.read() as read:
            return await users.list_page(read, AUTHORS, window)

    return page


async def leave(db: Database, user_id: int) -> None:
    async with db.transaction() as tx:
        await users.delete(tx, user_id)


# the counts that are kept


async def test_a_new_user_has_no_posts(db: Database) -> None:
    made = await factories.add_users(db, 3)
    assert await post_counts(db) == dict.fromkeys([user.id for user in made], 0)


async def test_a_count_follows_posts_that_come_change_and_go(db: Database) -> None:
    ada, bob = await factories.add_users(db, 2)
    first, _ = await factories.add_posts(db, ada.id, 2)
    await factories.add_post(db, author_id=bob.id, tags=["x"])
    assert await post_counts(db) == {ada.id: 2, bob.id: 1}
    async with db.transaction() as tx:
        await posts.update(tx, first.id, {"title": "t", "published": True, "tags": ["x"]})
    assert await post_counts(db) == {ada.id: 2, bob.id: 1}
    async with db.transaction() as tx:
        await posts.delete(tx, first.id)
    assert await post_counts(db) == {ada.id: 1, bob.id: 1}


async def test_a_count_is_of_what_was_committed(db: Database) -> None:
    class GivenUp(Exception):
        pass

    post = await factories.add_post(db)
    with suppress(GivenUp):
        async with db.transaction() as tx:
            await posts.create(tx, factories.new_post(post.author_id))
            await posts.delete(tx, post.id)
            await posts.create(tx, factories.new_post(post.author_id))
            raise GivenUp
    assert await post_counts(db) == {post.author_id: 1}


async def test_one_statement_may_add_or_remove_posts_of_many_authors(db: Database) -> None:
    ids = [user.id for user in await factories.add_users(db, 5)]
    numbers = " UNION ALL ".join(f"SELECT {number} AS n" for number in range(1, 8))
    await run(
        db,
        "INSERT INTO posts (author_id, title, title_key, content, published)"
        f" SELECT id, '', '', '', false FROM users, ({numbers}) AS numbers"
        " WHERE n > users.id - :first",
        first=ids[0],
    )
    assert list((await post_counts(db)).values()) == [7, 6, 5, 4, 3]
    await run(db, "DELETE FROM posts WHERE author_id % 2 = :odd", odd=ids[0] % 2)
    assert list((await post_counts(db)).values()) == [0, 6, 0, 4, 0]


async def test_a_user_who_leaves_takes_posts_links_and_count_along(db: Database) -> None:
    ada, bob = await factories.add_users(db, 2)
    for user in (ada, bob):
        await factories.add_post(db, author_id=user.id, tags=["x", "y"])
    await factories.add_many_posts(db, ada.id, 1000)
    async with sent_by(db) as sent:
        await leave(db, ada.id)
    assert len(sent.statements) == 1
    assert await post_counts(db) == {bob.id: 1}
    owners = await run(db, "SELECT author_id FROM posts JOIN post_tags ON post_id = id")
    assert owners.scalars().all() == [bob.id, bob.id]
    assert (await run(db, "SELECT count(*) FROM post_tags")).scalar_one() == 2
    async with db.read() as read:
        assert await tags.find_id(read, "y") is not None


async def test_users_who_are_purged_take_theirs_along(db: Database) -> None:
    made = await factories.add_users(db, 3)
    for user in made:
        await factories.add_post(db, author_id=user.id, tags=["x"])
    async with db.transaction() as tx:
        for user in made[:2]:
            await users.update(tx, user.id, {"is_active": False})
        assert await users.purge(tx, users.Filter(is_active=False)) == 2
    assert await post_counts(db) == {made[2].id: 1}
    assert (await run(db, "SELECT count(*) FROM post_tags")).scalar_one() == 1


async def test_posts_that_are_added_at_once_all_count(db: Database, shared_url: str) -> None:
    author = await factories.add_user(db)
    gone = await factories.add_post(db, author_id=author.id)

    async def remove() -> None:
        async with db.transaction() as tx:
            await posts.delete(tx, gone.id)

    async with db.transaction() as tx:
        await posts.create(tx, factories.new_post(author.id))
        writing = [
            *(factories.add_post(db, author_id=author.id) for _ in range(3)),
            remove(),
        ]
        racing = asyncio.gather(*writing)
        await until_waiting_for_a_lock(shared_url, callers=4)
    await racing
    assert await post_counts(db) == {author.id: 4}


class Crowd:
    """Writers who do anything to the same few authors, posts and tags.

    Args:
        author_ids: the authors there are; the last three are written for.
    """

    TAGS = ("a", "b", "c", "d")

    def __init__(self, author_ids: list[int]) -> None:
        self.author_ids = author_ids
        self.post_ids: list[int] = []
        self.done: set[str] = set()

    async def create(self, tx: Transaction, draw: random.Random) -> None:
        some = draw.sample(self.TAGS, 3)
        new = factories.new_post(draw.choice(self.author_ids[-3:]), tags=some)
        self.post_ids.append((await posts.create(tx, new)).id)

    async def update(self, tx: Transaction, draw: random.Random) -> None:
        changes = {"tags": draw.sample(self.TAGS, 3), "title": "t"}
        await posts.update(tx, self.any_post(draw), changes)

    async def delete(self, tx: Transaction, draw: random.Random) -> None:
        await posts.delete(tx, self.any_post(draw))

    async def leave(self, tx: Transaction, _: random.Random) -> None:
        self.author_ids.append((await users.create(tx, factories.new_user())).id)
        await users.delete(tx, self.author_ids[-4])

    async def untag(self, tx: Transaction, draw: random.Random) -> None:
        if found := await tags.find_id(tx, draw.choice(self.TAGS)):
            await tags.delete(tx, found)

    def any_post(self, draw: random.Random) -> int:
        return draw.choice(self.post_ids[-9:] or [0])

    async def act(self, db: Database, draw: random.Random, times: int) -> None:
        acts = [self.create, self.create, self.create, self.update, self.delete, self.leave]
        for _ in range(times):
            act = draw.choice([*acts, self.untag])
            # Where tags go meanwhile, a writer may be told to try again.
            with suppress(NotFound, Contention):
                async with db.transaction() as tx:
                    await act(tx, draw)
                self.done.add(act.__name__)


async def test_counts_hold_whatever_happens_at_once(db: Database) -> None:
    crowd = Crowd([user.id for user in await factories.add_users(db, 3)])
    draws = [random.Random(number) for number in range(8)]  # noqa: S311 - the same each time
    await asyncio.gather(*(crowd.act(db, draw, times=20) for draw in draws))
    assert crowd.done == {"create", "update", "delete", "leave", "untag"}
    await post_counts(db)


# list_post_counts


async def _add_ties(db: Database) -> list[PostCountRow]:
    """Adds 12 users with 0 to 3 posts each, three with each number of them."""
    made = await factories.add_users(db, 12)
    for number, user in enumerate(made):
        await factories.add_posts(db, user.id, number % 4)
    return [PostCountRow(user.id, user.username, number % 4) for number, user in enumerate(made)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_of_counts_hold_every_user_once_those_without_posts_too(
    db: Database, order: Order
) -> None:
    everybody = in_order(await _add_ties(db), order, VALUES)
    assert [row.post_count for row in everybody].count(0) == 3
    for limit in (1, 5, 11, 12, 13):
        assert await listed(fetch_counts(db), order, limit=limit) == everybody


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_a_list_of_counts_of_nobody_is_one_empty_page(db: Database, order: Order) -> None:
    page = await fetch_counts(db)(Window(order, None, 5))
    assert (page.rows, page.next) == ([], None)


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_a_page_of_counts_is_one_statement_whatever_its_size(
    db: Database, order: Order
) -> None:
    await factories.add_many_users(db, 1000)
    for rows in (1, 10, 1000):
        async with sent_by(db) as sent:
            page = await fetch_counts(db)(Window(order, None, rows))
        assert len(page.rows) == rows
        assert (len(sent.statements), sent.frames) == (1, [])


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_whose_count_stays_is_seen_once_whatever_others_do(
    db: Database, order: Order
) -> None:
    residents = await _add_ties(db)
    ids = {row.user_id for row in residents}
    seen: list[PostCountRow] = []
    guests: list[int] = []

    async def churn() -> None:
        # Without an end, a list in the order of ids would not have one either.
        for _ in range(12):
            guests.append((await factories.add_post(db)).author_id)
            await factories.add_posts(db, guests[0], 2)
            if len(guests) > 2:
                await leave(db, guests.pop(0))

    churning = [asyncio.ensure_future(churn()) for _ in range(3)]
    async for page in all_pages(fetch_counts(db), order, limit=2):
        seen += page
    for task in churning:
        task.cancel()
    await asyncio.gather(*churning, return_exceptions=True)
    assert [row for row in seen if row.user_id in ids] == in_order(residents, order, VALUES)


# users who have published


@pytest.mark.parametrize("order", orders("id", "created_at", "username"), ids=str)
async def test_authors_are_those_with_a_published_post_each_once(
    db: Database, order: Order
) -> None:
    made = await factories.add_users(db, 8)
    for number, user in enumerate(made):
        for each in range(number % 4):
            await factories.add_post(db, author_id=user.id, published=each != 1)
    values: dict[str, Callable[[UserRow], Any]] = {
        "id": lambda user: user.id,
        "created_at": lambda user: user.created_at,
        "username": lambda user: fold(user.username),
    }
    expected = in_order([user for at, user in enumerate(made) if at % 4], order, values)
    for limit in (1, 6, 7):
        assert await listed(fetch_authors(db), order, limit=limit) == expected
    async with db.read() as read:
        assert await users.count(read, AUTHORS) == 6


async def test_who_withdraws_the_last_published_post_is_no_author_any_more(db: Database) -> None:
    draft = await factories.add_post(db)
    published = await factories.add_post(db, author_id=draft.author_id, published=True)
    author = published.author
    assert await listed(fetch_authors(db), Order("id")) == [author]
    async with db.transaction() as tx:
        await posts.update(tx, published.id, {"published": False})
    assert await listed(fetch_authors(db), Order("id")) == []


@pytest.mark.parametrize("profile", [False, True])
async def test_a_page_of_authors_is_one_statement_whatever_its_size(
    db: Database, *, profile: bool
) -> None:
    await factories.add_many_users(db, 1000)
    await run(
        db,
        "INSERT INTO posts (author_id, title, title_key, content, published)"
        " SELECT id, '', '', '', true FROM users, (SELECT 1 UNION ALL SELECT 2) AS numbers",
    )
    for rows in (1, 10, 1000):
        async with sent_by(db) as sent, db.read() as read:
            page = await users.list_page(
                read, AUTHORS, Window(Order("id"), None, rows), profile=profile
            )
        assert len({row.id for row in page.rows}) == rows
        assert (len(sent.statements), sent.frames) == (1, [])
        assert "DISTINCT" not in sent.statements[0].text


# statistics


async def test_statistics_are_what_a_users_posts_amount_to(db: Database) -> None:
    author = await factories.add_user(db)
    made = [
        await factories.add_post(db, author_id=author.id, published=number != 1)
        for number in range(3)
    ]
    await factories.add_post(db, published=True)
    day = 86_400 * SECOND
    await set_moments(
        db, Post.created_at, lambda number, at: at - day if number == made[1].id else at
    )
    async with sent_by(db) as sent, db.read() as read:
        found = await authors.statistics(read, author.id)
    first = made[1].created_at - day
    assert found == Statistics(3, 2, first, made[2].created_at)
    assert (len(sent.statements), sent.frames) == (1, [])


async def test_a_user_without_posts_has_statistics_of_nothing(db: Database) -> None:
    user = await factories.add_user(db)
    await factories.add_post(db)
    async with db.read() as read:
        assert await authors.statistics(read, user.id) == Statistics(0, 0, None, None)


@pytest.mark.parametrize("user_id", [0, -1, 2**63 - 1])
async def test_nobody_has_no_statistics(db: Database, user_id: int) -> None:
    await factories.add_post(db)
    async with db.read() as read:
        with pytest.raises(NotFound) as missed:
            await authors.statistics(read, user_id)
    assert (missed.value.resource, missed.value.name) == ("user", str(user_id))


# recent


async def test_the_newest_posts_come_newest_first_and_twenty_at_most(db: Database) -> None:
    busy, calm, idle = await factories.add_users(db, 3)
    made = await factories.add_posts(db, busy.id, 25)
    # Added at one moment, they are told apart by id; these two are older than their ids say.
    late = [post.id for post in made[-2:]]
    await set_moments(db, Post.created_at, lambda number, at: at - SECOND if number in late else at)
    one = await factories.add_post(db, author_id=calm.id, tags=["x"], published=True)
    async with db.read() as read:
        found = await authors.recent(read, [calm.id, idle.id, busy.id, 2**62])
        assert await authors.recent(read, []) == ({}, {})
    assert found.counts == {busy.id: 25, calm.id: 1, idle.id: 0}
    assert set(found.newest) == {busy.id, calm.id}
    assert [post.id for post in found.newest[busy.id]] == [post.id for post in made[22:2:-1]]
    assert found.newest[calm.id] == [one._replace(content="", author=None, tags=())]


async def test_newest_posts_are_two_statements_for_any_number_of_users(db: Database) -> None:
    ids = await factories.add_many_users(db, 1000)
    await run(
        db,
        "INSERT INTO posts (author_id, title, title_key, content, published)"
        " SELECT id, '', '', '', true FROM users, (SELECT 1 UNION ALL SELECT 2) AS numbers",
    )
    async with db.read() as read:
        # The driver asks about the type of an array when a connection first sends one.
        await authors.recent(read, ids)
    for rows in (1, 10, 1000):
        async with sent_by(db) as sent, db.read() as read:
            found = await authors.recent(read, ids[:rows])
        assert list(found.counts.values()) == [2] * rows
        assert [len(newest) for newest in found.newest.values()] == [2] * rows
        assert (len(sent.statements), sent.frames) == (2, [])
