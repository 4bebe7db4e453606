"""SQL about posts."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from storage import posts, tags, users
from storage.casefold import fold
from storage.errors import NotFound, Stale, TooManyTags
from storage.keyset import Order, Window
from storage.models import Post, PostTag
from storage.moments import Moment, moment_of
from storage.posts import Filter, PostRow
from tests import factories
from tests.differences import Difference, differs
from tests.onlookers import until_waiting_for_a_lock
from tests.paging import all_pages, in_order, listed, orders
from tests.statements import run, sent_by, set_moments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from storage.database import Database
    from tests.paging import Fetch

ORDERS = orders("id", "created_at", "title")
VALUES: dict[str, Callable[[PostRow], Any]] = {
    "id": lambda post: post.id,
    "created_at": lambda post: post.created_at,
    "title": lambda post: fold(post.title),
}
FAR_FUTURE = moment_of(datetime(2999, 12, 31, tzinfo=UTC))


async def get(db: Database, post_id: int) -> PostRow:
    async with db.read() as read:
        return await posts.get(read, post_id)


async def change(db: Database, post: PostRow, **changes: object) -> PostRow:
    async with db.transaction() as tx:
        return await posts.update(tx, post.id, changes)


async def remove(db: Database, post_id: int) -> None:
    async with db.transaction() as tx:
        await posts.delete(tx, post_id)


async def names_of(db: Database) -> list[str]:
    """The names of all tags, by name."""
    return list((await run(db, "SELECT name FROM tags ORDER BY name_key")).scalars())


def tag_names(post: PostRow) -> list[str]:
    return [tag.name for tag in post.tags]


def summary(post: PostRow) -> PostRow:
    return post._replace(content="", author=None, tags=())


def fetch(db: Database, where: Filter | None = None, *, full: bool = False) -> Fetch[PostRow]:
    async def page(window: Window) -> Any:  # noqa: ANN401 - a page of posts
        async with db.read() as read:
            return await posts.list_page(read, where or Filter(), window, full=full)

    return page


# create


async def test_a_new_post_is_unpublished_and_has_its_author_and_no_tags(db: Database) -> None:
    author = await factories.add_user(db)
    made = await factories.add_post(db, author_id=author.id, title="On Bread", content="Knead.")
    assert (made.title, made.content) == ("On Bread", "Knead.")
    assert (made.published, made.published_at, made.tags) == (False, None, [])
    assert (made.author_id, made.author) == (author.id, author)
    assert made.updated_at == made.created_at
    assert made == (await get(db, made.id))._replace(tags=[])


async def test_a_post_may_be_published_at_once(db: Database) -> None:
    made = await factories.add_post(db, published=True)
    assert (made.published, made.published_at) == (True, made.created_at)
    assert (await get(db, made.id)).published_at == made.created_at


async def test_a_post_of_an_unknown_author_is_refused_and_leaves_nothing(db: Database) -> None:
    await factories.add_user(db)
    with pytest.raises(NotFound) as missed:
        await factories.add_post(db, author_id=2**62, tags=["x"])
    assert (missed.value.resource, missed.value.name) == ("user", str(2**62))
    assert await listed(fetch(db), Order("id")) == []
    assert await names_of(db) == []


async def test_the_tags_of_a_post_are_made_where_there_are_none(db: Database) -> None:
    [known] = await factories.add_tags(db, "Gardens")
    made = await factories.add_post(db, tags=["trains", " GARDENS", "Bread "])
    assert tag_names(made) == ["Bread", "Gardens", "trains"]
    assert made.tags[1].id == known.id
    assert made == await get(db, made.id)
    assert await names_of(db) == ["Bread", "Gardens", "trains"]


async def test_a_tag_that_is_named_twice_counts_once_and_is_spelt_as_it_was_first(
    db: Database,
) -> None:
    made = await factories.add_post(db, tags=[" Zo\u00eb ", "ZOE\u0308", "zo\u00eb", "Zo\u00eb"])
    assert tag_names(made) == ["Zo\u00eb"]
    assert tag_names(await get(db, made.id)) == ["Zo\u00eb"]


@pytest.mark.parametrize("letter", ["a", "\u0390", "\U0001f9ee", "\U0001d160"])
async def test_the_longest_titles_fit_however_long_they_are_when_folded(
    db: Database, letter: str
) -> None:
    made = await factories.add_post(db, title=letter * 200, tags=[letter * 50])
    found = await listed(fetch(db, Filter(query=letter * 200, tag=letter * 50)), Order("title"))
    assert found == [summary(made)]


async def test_nobody_writes_a_post_once_they_leave(db: Database, shared_url: str) -> None:
    author = await factories.add_user(db)
    async with db.transaction() as tx:
        await users.delete(tx, author.id)
        writing = asyncio.ensure_future(factories.add_post(db, author_id=author.id, tags=["x"]))
        await until_waiting_for_a_lock(shared_url)
    with pytest.raises(NotFound):
        await writing
    assert await names_of(db) == []


async def test_who_leaves_takes_along_what_is_being_written(db: Database, shared_url: str) -> None:
    author = await factories.add_user(db)

    async def leave() -> None:
        async with db.transaction() as tx:
            await users.delete(tx, author.id)

    async with db.transaction() as tx:
        await posts.create(tx, factories.new_post(author.id, tags=["x"]))
        leaving = asyncio.ensure_future(leave())
        await until_waiting_for_a_lock(shared_url)
    await leaving
    assert await listed(fetch(db), Order("id")) == []
    assert await names_of(db) == ["x"]


# get and batch_get


@pytest.mark.parametrize("post_id", [2**63 - 1, 0, -1])
@pytest.mark.parametrize("full", [False, True])
async def test_an_unknown_post_is_not_found(db: Database, post_id: int, *, full: bool) -> None:
    await factories.add_post(db)
    async with db.read() as read:
        with pytest.raises(NotFound) as missed:
            await posts.get(read, post_id, full=full)
    assert (missed.value.resource, missed.value.name) == ("post", str(post_id))


async def test_the_summary_selects_neither_content_nor_author_nor_tags(db: Database) -> None:
    made = await factories.add_post(db, tags=["x"])
    async with sent_by(db) as sent, db.read() as read:
        assert await posts.get(read, made.id, full=False) == summary(made)
        assert await posts.batch_get(read, [made.id]) == {made.id: summary(made)}
        page = await posts.list_page(read, Filter(), Window(Order("id"), None, 5))
    assert page.rows == [summary(made)]
    assert len(sent.statements) == 3
    for statement in sent.statements:
        assert not {"content", "users", "tags"} & set(
            statement.text.replace(".", " ").replace(",", " ").split()
        )


async def test_a_batch_holds_those_posts_that_there_are(db: Database) -> None:
    first = await factories.add_post(db, tags=["b", "a"])
    second = await factories.add_post(db, published=True)
    await factories.add_post(db)
    asked = [second.id, first.id, 2**62, first.id, -5]
    async with db.read() as read:
        assert await posts.batch_get(read, asked) == {
            first.id: summary(first),
            second.id: summary(second),
        }
        found = await posts.batch_get(read, asked, full=True)
        assert await posts.batch_get(read, [], full=True) == {}
    assert found == {first.id: first, second.id: second}


@pytest.mark.parametrize("full", [False, True], ids=["summary", "full"])
async def test_the_number_of_statements_does_not_depend_on_the_number_of_rows(
    db: Database, *, full: bool
) -> None:
    ids = await factories.add_many_posts(db, (await factories.add_user(db)).id, 1000)
    await factories.add_tags(db, *map(str, range(5)))
    await run(
        db,
        "INSERT INTO post_tags SELECT posts.id, tags.id FROM posts, tags"
        " WHERE tags.name <> CAST(posts.id % 10 AS char(1))",
    )
    async with db.read() as read:
        # The driver asks about the type of an array when a connection first sends one.
        await posts.batch_get(read, ids)
    for rows in (1, 10, 1000):
        window = Window(Order("id"), None, rows)
        async with sent_by(db) as sent, db.read() as read:
            await posts.get(read, ids[0], full=full)
            found = await posts.batch_get(read, ids[:rows], full=full)
            page = await posts.list_page(read, Filter(), window, full=full)
        assert (len(found), len(page.rows)) == (rows, rows)
        assert all((row.author is not None) == full for row in page.rows)
        assert all((len(row.tags) >= 4) == full for row in (*page.rows, *found.values()))
        assert (len(sent.statements), sent.frames) == (3, [])
        async with sent_by(db) as sent, db.read() as read:
            page = await posts.list_page(read, Filter(tag="4"), window, full=full)
            assert await posts.count(read, Filter(tag="4")) == 900
        assert len(page.rows) == min(rows, 900)
        assert len(sent.statements) == 4


# list_page and count


@pytest.mark.parametrize("sign", ["%", "_", "\\", "/", "'", '"', "$1", ":x", "[a-z]", "*", "🧮"])
async def test_every_character_of_a_tag_is_plain(db: Database, sign: str) -> None:
    author = await factories.add_user(db)
    for each in ("%", "_", "\\", "/", "'", '"', "$1", ":x", "[a-z]", "*", "🧮", ""):
        await factories.add_post(db, author_id=author.id, title=f"1{each}2", tags=[f"1{each}2"])
    found = await listed(fetch(db, Filter(tag=f"1{sign}2")), Order("id"))
    assert [post.title for post in found] == [f"1{sign}2"]


@pytest.mark.parametrize("name", ["Stra\u00dfe", "STRASSE", " stra\u00dfe "])
async def test_a_tag_is_asked_for_in_any_case(db: Database, name: str) -> None:
    made = await factories.add_post(db, tags=["Stra\u00dfe", "x"])
    await factories.add_post(db, tags=["x", "stra"])
    assert await listed(fetch(db, Filter(tag=name)), Order("id")) == [summary(made)]
    async with db.read() as read:
        assert await posts.count(read, Filter(tag=name)) == 1


@pytest.mark.parametrize("full", [False, True])
async def test_no_post_has_a_tag_that_there_is_not(db: Database, *, full: bool) -> None:
    await factories.add_post(db, tags=["known"])
    await factories.add_tags(db, "idle")
    for name in ("unknown", "idle", "know", "known%"):
        where = Filter(tag=name)
        assert await listed(fetch(db, where, full=full), Order("title")) == []
        async with db.read() as read:
            assert await posts.count(read, where) == 0


async def test_filters_hold_alone_and_in_every_combination(db: Database) -> None:
    authors = await factories.add_users(db, 2)
    for author, published, name, given in itertools.product(
        authors, (True, False), ("Ann", "Bo"), ([], ["x"], ["X", "y"])
    ):
        await factories.add_post(
            db, author_id=author.id, published=published, title=name, tags=given
        )
    everything = await listed(fetch(db, full=True), Order("id"))
    assert len(everything) == 24
    early, late = everything[3].created_at, everything[16].created_at
    for author_id, state, tag, query, (after, before) in itertools.product(
        (None, authors[0].id),
        (None, True, False),
        ("", "X"),
        ("", "aNN"),
        ((None, None), (early, None), (None, late), (early, late)),
    ):
        where = Filter(author_id, state, tag, query, after, before)
        expected = [summary(post) for post in everything if _matches(post, where)]
        assert await listed(fetch(db, where), Order("title")) == in_order(
            expected, Order("title"), VALUES
        ), where
        async with db.read() as read:
            assert await posts.count(read, where) == len(expected), where


def _matches(post: PostRow, where: Filter) -> bool:
    after, before = where.created_after, where.created_before
    return (
        where.author_id in (None, post.author_id)
        and where.published in (None, post.published)
        and (not where.tag or where.tag.lower() in [name.lower() for name in tag_names(post)])
        and fold(where.query) in fold(post.title)
        and (after is None or post.created_at > after)
        and (before is None or post.created_at < before)
    )


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_hold_every_row_once_and_in_order(db: Database, order: Order) -> None:
    await _add_ties(db)
    everything = in_order(await listed(fetch(db, full=True), Order("id")), order, VALUES)
    assert len(everything) == 24
    for limit in (1, 6, 24, 25):
        found = await listed(fetch(db), order, limit=limit)
        assert found == [summary(post) for post in everything], limit
    author_id = everything[0].author_id
    for where in (
        Filter(query="B"),
        Filter(author_id=author_id),
        Filter(tag="x"),
        Filter(published=True),
        Filter(published=False),
        Filter(author_id=author_id, tag="x"),
        Filter(author_id=author_id, published=True, tag="x", query="b"),
    ):
        expected = [post for post in everything if _matches(post, where)]
        assert expected
        assert await listed(fetch(db, where, full=True), order, limit=5) == expected, where


async def _add_ties(db: Database) -> None:
    """Adds 24 posts of two authors: eight at each of three moments, their titles in no order."""
    first, second = await factories.add_users(db, 2)
    titles = ("B\u00e9a", "_x", "\u00e9mile", "Zo\u00eb", "ada", "ADAM", "zz", "\U0001f9ee")
    async with db.transaction() as tx:
        for number, (title, end) in enumerate(itertools.product(titles, ("b", "", ""))):
            await posts.create(
                tx,
                factories.new_post(
                    (first, second)[number % 5 < 2].id,
                    title=title + end,
                    published=number % 3 > 0,
                    tags=["x", "y"] if number % 7 else ["y"],
                ),
            )
    await set_moments(db, Post.created_at, lambda number, moment: moment + number % 3)


async def test_a_page_says_whether_there_is_more(db: Database) -> None:
    await factories.add_posts(db, (await factories.add_user(db)).id, 4)
    for limit, expected in {1: True, 3: True, 4: False, 5: False}.items():
        page = await fetch(db)(Window(Order("id"), None, limit))
        assert (page.next is not None) == expected


async def test_a_list_of_nothing_is_one_empty_page(db: Database) -> None:
    for full in (False, True):
        page = await fetch(db, full=full)(Window(Order("title"), None, 5))
        assert (page.rows, page.next) == ([], None)
    async with db.read() as read:
        assert await posts.count(read, Filter()) == 0


@pytest.mark.parametrize(
    ("order", "where"),
    [
        *((order, Filter()) for order in ORDERS),
        *((order, Filter(tag="y")) for order in orders("id")),
    ],
    ids=str,
)
async def test_what_is_there_throughout_is_seen_once_whatever_comes_and_goes(
    db: Database, order: Order, where: Filter
) -> None:
    await _add_ties(db)
    residents = await listed(fetch(db), Order("id"))
    ids = {post.id for post in residents}
    seen: list[PostRow] = []
    async with _coming_and_going(db, residents[0]):
        async for page in all_pages(fetch(db, where), order, limit=2):
            seen += page
            # The row that the next page starts after may go too.
            for post in page:
                if post.id not in ids:
                    await _forget(db, post.id)
    assert len(seen) == len({post.id for post in seen})
    assert [post for post in seen if post.id in ids] == in_order(residents, order, VALUES)


@asynccontextmanager
async def _coming_and_going(db: Database, beside: PostRow) -> AsyncIterator[None]:
    """Adds and removes posts throughout a block, all over every order."""

    async def churn(first: str) -> None:
        # Without an end, a list in the order of ids would not have one either.
        for number in range(12):
            made = await factories.add_post(
                db,
                author_id=beside.author_id,
                title=f"{first}{number}",
                tags=["Y", f"{first}{number}"],
            )
            moment = update(Post).where(Post.id == made.id)
            async with db.transaction() as tx:
                await tx.execute(moment.values(created_at=beside.created_at + number % 4))
            if number % 2:
                await _forget(db, made.id)

    churning = [asyncio.ensure_future(churn(first)) for first in ("aa", "\u00e9", "Z", "~")]
    try:
        yield
    finally:
        for task in churning:
            task.cancel()
        await asyncio.gather(*churning, return_exceptions=True)


async def _forget(db: Database, post_id: int) -> None:
    with suppress(NotFound):
        await remove(db, post_id)


# update


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "On \u00c9lodie"),
        ("title", "post"),
        ("content", "New."),
        ("content", ""),
        ("tags", ["x"]),
        ("tags", ["x", "y", "z"]),
        ("tags", ["z"]),
        ("tags", []),
    ],
)
async def test_an_update_changes_its_field_and_the_moment_and_nothing_else(
    db: Database, field: str, value: str | Sequence[str]
) -> None:
    bystander = await factories.add_post(db, tags=["x", "y"])
    before = await factories.add_post(db, title="Post", tags=["x", "y"])
    after = await change(db, before, **{field: value})
    assert after.updated_at > before.updated_at
    changed = tag_names(after) if field == "tags" else getattr(after, field)
    assert changed == value
    assert after == before._replace(
        **{field: getattr(after, field), "updated_at": after.updated_at}
    )
    assert await get(db, before.id) == after
    assert await get(db, bystander.id) == bystander


async def test_an_update_changes_everything_at_once(db: Database) -> None:
    post = await factories.add_post(db, tags=["x"])
    after = await change(db, post, title="t", content="c", published=True, tags=["y"])
    assert (after.title, after.content, after.published) == ("t", "c", True)
    assert tag_names(after) == ["y"]
    assert after.updated_at > post.updated_at


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"title": "Post"},
        {"content": "Once."},
        {"published": True},
        {"tags": ["Stra\u00dfe", "x"]},
        {"tags": ["X", " STRASSE ", "x"]},
        {"title": "Post", "content": "Once.", "published": True, "tags": ["x", "strasse"]},
    ],
)
async def test_an_update_to_the_same_values_leaves_the_moment(
    db: Database, same: dict[str, object]
) -> None:
    post = await factories.add_post(
        db, title="Post", content="Once.", published=True, tags=["Stra\u00dfe", "x"]
    )
    assert await change(db, post, **same) == post
    assert await change(db, post, **same) == post


async def test_a_post_keeps_when_it_was_published_until_it_is_not(db: Database) -> None:
    draft = await factories.add_post(db)
    published = await change(db, draft, published=True)
    assert published.published_at is not None
    assert published.published_at > draft.created_at
    again = await change(db, draft, published=True, title="Changed")
    assert (again.published, again.published_at) == (True, published.published_at)
    withdrawn = await change(db, draft, published=False)
    assert (withdrawn.published, withdrawn.published_at) == (False, None)
    assert withdrawn.updated_at > again.updated_at
    back = await change(db, draft, published=True)
    assert back.published_at is not None
    assert back.published_at > published.published_at


async def test_every_change_moves_the_moment_forward_also_within_a_transaction(
    db: Database,
) -> None:
    post = await factories.add_post(db)
    moments = [post.updated_at]
    async with db.transaction() as tx:
        for number in map(str, range(3)):
            moments += [
                (await posts.update(tx, post.id, {"title": number})).updated_at,
                (await posts.update(tx, post.id, {"tags": [number]})).updated_at,
                (await posts.add_tags(tx, post.id, ["more"])).updated_at,
                (await posts.remove_tags(tx, post.id, ["more"])).updated_at,
            ]
    assert moments == sorted(set(moments))


async def test_a_change_moves_the_moment_forward_when_the_clock_is_behind_it(
    db: Database,
) -> None:
    post = await factories.add_post(db, tags=["x"])
    await set_moments(db, Post.updated_at, lambda *_: FAR_FUTURE)
    assert (await change(db, post, title="a")).updated_at == FAR_FUTURE + 1
    assert (await change(db, post, title="a", tags=["X"])).updated_at == FAR_FUTURE + 1
    assert (await change(db, post, tags=["y"])).updated_at == FAR_FUTURE + 2
    assert (await change(db, post, title="b", tags=["z"])).updated_at == FAR_FUTURE + 3
    async with db.transaction() as tx:
        after = await posts.add_tags(tx, post.id, ["x"])
        assert after.updated_at == FAR_FUTURE + 4
        after = await posts.remove_tags(tx, post.id, ["x"])
        assert after.updated_at == FAR_FUTURE + 5


@pytest.mark.parametrize(
    "changes", [{"title": "Mine"}, {"tags": ["mine"]}, {"title": "Mine", "tags": ["mine"]}]
)
async def test_an_update_holds_only_for_the_state_that_it_was_made_for(
    db: Database, changes: dict[str, object]
) -> None:
    read = await factories.add_post(db, tags=["x"])
    changed = await change(db, read, tags=["theirs"])
    async with db.transaction() as tx:
        with pytest.raises(Stale) as refused:
            await posts.update(tx, read.id, changes, unchanged_since=read.updated_at)
    assert (refused.value.resource, refused.value.name) == ("post", str(read.id))
    assert await get(db, read.id) == changed
    async with db.transaction() as tx:
        after = await posts.update(tx, read.id, changes, unchanged_since=changed.updated_at)
    assert after.updated_at > changed.updated_at


@pytest.mark.parametrize("field", ["title", "tags"])
async def test_of_two_updates_of_one_state_the_second_is_stale(
    db: Database, shared_url: str, field: str
) -> None:
    post = await factories.add_post(db)

    async def update(value: str) -> PostRow:
        async with db.transaction() as tx:
            since = post.updated_at
            return await posts.update(tx, post.id, {field: value}, unchanged_since=since)

    async with db.transaction() as tx:
        first = await posts.update(tx, post.id, {field: "a"}, unchanged_since=post.updated_at)
        second = asyncio.ensure_future(update("b"))
        await until_waiting_for_a_lock(shared_url)
    with pytest.raises(Stale):
        await second
    assert await get(db, post.id) == first


@pytest.mark.parametrize("since", [None, FAR_FUTURE])
async def test_an_update_or_deletion_of_nothing_is_not_found(
    db: Database, since: Moment | None
) -> None:
    async with db.transaction() as tx:
        for attempt in (
            posts.update(tx, 12345, {"title": "x"}, unchanged_since=since),
            posts.update(tx, 12345, {"tags": ["x"]}, unchanged_since=since),
            posts.delete(tx, 12345, unchanged_since=since),
            posts.add_tags(tx, 12345, ["x"]),
            posts.remove_tags(tx, 12345, ["x"]),
        ):
            with pytest.raises(NotFound) as missed:
                await attempt
            assert (missed.value.resource, missed.value.name) == ("post", "12345")
    assert await names_of(db) == []


# add_tags and remove_tags


async def test_added_tags_join_those_that_a_post_has(db: Database) -> None:
    bystander = await factories.add_post(db, tags=["x"])
    post = await factories.add_post(db, tags=["x"])
    async with db.transaction() as tx:
        after = await posts.add_tags(tx, post.id, [" Y", "y", "X", "a"])
    assert tag_names(after) == ["a", "x", "Y"]
    assert after == post._replace(tags=after.tags, updated_at=after.updated_at)
    assert after.updated_at > post.updated_at
    assert await get(db, bystander.id) == bystander


async def test_removed_tags_leave_the_post_and_stay_themselves(db: Database) -> None:
    bystander = await factories.add_post(db, tags=["x"])
    post = await factories.add_post(db, tags=["x", "y", "Z"])
    async with db.transaction() as tx:
        after = await posts.remove_tags(tx, post.id, [" X ", "z", "never"])
    assert tag_names(after) == ["y"]
    assert after == post._replace(tags=after.tags, updated_at=after.updated_at)
    assert after.updated_at > post.updated_at
    assert await names_of(db) == ["x", "y", "Z"]
    assert await get(db, bystander.id) == bystander


async def test_tags_that_change_nothing_leave_the_moment(db: Database) -> None:
    post = await factories.add_post(db, tags=["x", "y"])
    async with db.transaction() as tx:
        assert await posts.add_tags(tx, post.id, ["X", " y"]) == post
        assert await posts.add_tags(tx, post.id, []) == post
        assert await posts.remove_tags(tx, post.id, ["z"]) == post
        assert await posts.remove_tags(tx, post.id, []) == post


async def test_a_post_takes_no_more_tags_than_a_request_can_name(db: Database) -> None:
    post = await factories.add_post(db, tags=[f"tag {n}" for n in range(posts.MOST_TAGS - 1)])
    async with db.transaction() as tx:
        full = await posts.add_tags(tx, post.id, ["tag 0", "the last"])
    assert len(full.tags) == posts.MOST_TAGS
    with pytest.raises(TooManyTags):
        async with db.transaction() as tx:
            await posts.add_tags(tx, post.id, ["tag 0", "one more"])
    assert await get(db, post.id) == full
    assert "one more" not in await names_of(db)


async def test_two_who_add_tags_at_once_both_do(db: Database, shared_url: str) -> None:
    post = await factories.add_post(db)

    async def add(*names: str) -> PostRow:
        async with db.transaction() as tx:
            return await posts.add_tags(tx, post.id, names)

    async with db.transaction() as tx:
        first = await posts.add_tags(tx, post.id, ["a", "b"])
        adding = asyncio.ensure_future(add("b", "c"))
        await until_waiting_for_a_lock(shared_url)
    after = await adding
    assert tag_names(after) == ["a", "b", "c"]
    assert after.updated_at > first.updated_at


# delete


async def test_a_deleted_post_is_gone_and_so_are_its_links_and_not_its_tags(db: Database) -> None:
    post = await factories.add_post(db, tags=["x", "y"])
    other = await factories.add_post(db, author_id=post.author_id, tags=["x"])
    async with sent_by(db) as sent, db.transaction() as tx:
        await posts.delete(tx, post.id, unchanged_since=post.updated_at)
    assert len(sent.statements) == 1
    with pytest.raises(NotFound):
        await get(db, post.id)
    assert await get(db, other.id) == other
    assert await names_of(db) == ["x", "y"]
    assert (await run(db, "SELECT post_id FROM post_tags")).scalars().all() == [other.id]


async def test_a_deletion_holds_only_for_the_state_that_it_was_made_for(db: Database) -> None:
    post = await factories.add_post(db)
    changed = await change(db, post, tags=["theirs"])
    with pytest.raises(Stale):
        async with db.transaction() as tx:
            await posts.delete(tx, post.id, unchanged_since=post.updated_at)
    assert await get(db, post.id) == changed


async def test_a_list_goes_on_after_a_row_that_is_gone(db: Database) -> None:
    first, second, third = await factories.add_posts(db, (await factories.add_user(db)).id, 3)
    page = await fetch(db)(Window(Order("id"), None, 2))
    await remove(db, second.id)
    rest = await fetch(db)(Window(Order("id"), page.next, 2))
    assert [*page.rows, *rest.rows] == [summary(post) for post in (first, second, third)]


# all at once


@differs(Difference.ONE_WRITER)
async def test_a_post_that_waits_for_a_tag_keeps_nobody_from_other_posts_of_its_author(
    db: Database, shared_url: str
) -> None:
    # MariaDB locks up to the tag that is next to the one that is waited for.
    post = await factories.add_post(db, tags=["xx"])

    def write(*names: str) -> asyncio.Future[PostRow]:
        return asyncio.ensure_future(
            factories.add_post(db, author_id=post.author_id, tags=list(names))
        )

    async with db.transaction() as tx:
        await tags.ensure(tx, ["x"])
        waiting = write("x")
        await until_waiting_for_a_lock(shared_url)
        await write("y")
        await remove(db, post.id)
        assert not waiting.done()
    assert tag_names(await waiting) == ["x"]


@differs(Difference.ONE_WRITER)
@pytest.mark.parametrize("change_to", ["update", "add", "remove"])
async def test_whoever_changes_the_tags_of_a_post_does_not_deadlock_with_its_author_leaving(
    db: Database, shared_url: str, change_to: str
) -> None:
    """The author's deletion has the author and waits for the post, which the change has."""
    post = await factories.add_post(db, tags=["x"])

    async def change_tags() -> PostRow:
        async with db.transaction() as tx:
            if change_to == "update":
                return await posts.update(tx, post.id, {"title": "New", "tags": ["y"]})
            if change_to == "add":
                return await posts.add_tags(tx, post.id, ["y"])
            return await posts.remove_tags(tx, post.id, ["x"])

    async def leave() -> None:
        async with db.transaction() as tx:
            await users.delete(tx, post.author_id)

    async with db.transaction() as tx:
        await tags.ensure(tx, ["y"])
        await tx.execute(select(PostTag.post_id).with_for_update())
        changing = asyncio.ensure_future(change_tags())
        await until_waiting_for_a_lock(shared_url)
        leaving = asyncio.ensure_future(leave())
        await until_waiting_for_a_lock(shared_url, callers=2)
    assert (
        tag_names(await changing) == {"update": ["y"], "add": ["x", "y"], "remove": []}[change_to]
    )
    await leaving
    assert await listed(fetch(db), Order("id")) == []
