"""How PostgreSQL runs the SQL of posts, tags and authors on large tables: see populated.sql."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage import authors, posts, tags, users
from storage.dialects.direct import AGAIN
from storage.keyset import Cursor, Order, Window
from storage.moments import Moment, moment_of
from storage.posts import Filter
from storage.tags import Key
from tests.paging import orders
from tests.plans import (
    assert_planned_once,
    first_sent_by,
    plan_of,
    statement_of,
    statements_of,
)
from tests.statements import run, sent_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from storage.database import Database
    from tests.plans import Call, Change, Plan

USERS, POSTS, LINKS = 100_000, 500_000, 740_000
# A page of what is rare, in an order that says nothing about it, has to skip many.
MOST_READ = POSTS // 20
# What is rare enough is sorted rather than looked for.
MOST_SORTED = 5_000
# An author of every fifth post, one who wrote 20,000 within 17 days, one of a few, one of none.
BUSY, BRIEF, CALM, IDLE = 50_000, 60_000, 1_000, 99_999
HOT, WARM, RARE = "tag 1", "tag 100", "tag 1999"

FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)


def day(number: float) -> Moment:
    return moment_of(FIRST_DAY + timedelta(days=number))


MIDDLE = {
    "id": Cursor(POSTS // 2, POSTS // 2),
    "created_at": Cursor(day(170), POSTS // 2),
    "title": Cursor("8", POSTS // 2),
}


# Any plan has to do for these: no value in them decides which index is best.
STATES = {
    "everything": Filter(),
    "published": Filter(published=True),
    "unpublished": Filter(published=False),
}
# Not among them: what goes with the order, as a long span does with that of ids. PostgreSQL takes
# them to be unrelated, and walks the order until it finds enough.
VALUES = {
    "of a busy author": Filter(author_id=BUSY),
    "of a brief author": Filter(author_id=BRIEF),
    "of a calm author": Filter(author_id=CALM),
    "of an idle author": Filter(author_id=IDLE),
    "unpublished of a busy author": Filter(author_id=BUSY, published=False),
    "unpublished of a calm author": Filter(author_id=CALM, published=False),
    "hot tag": Filter(tag=HOT),
    "warm tag": Filter(tag=WARM),
    "rare tag": Filter(tag=RARE),
    "unpublished with a hot tag": Filter(tag=HOT, published=False),
    "unpublished with a rare tag": Filter(tag=RARE, published=False),
    "hot tag of a busy author": Filter(author_id=BUSY, tag=HOT),
    "hot tag of a calm author": Filter(author_id=CALM, tag=HOT),
    "rare tag of a busy author": Filter(author_id=BUSY, tag=RARE),
    "nothing found": Filter(query="zzzqqq"),
    "one found": Filter(query="c4ca42"),
    "some found": Filter(query="abc"),
    "third found": Filter(query="BREAD"),
    "two characters": Filter(query="ab"),
    "found of a busy author": Filter(author_id=BUSY, query="bread"),
    "few found of a busy author": Filter(author_id=BUSY, query="abc"),
    "found of a calm author": Filter(author_id=CALM, query="bread"),
    "found with a hot tag": Filter(tag=HOT, query="bread"),
    "few found with a hot tag": Filter(tag=HOT, query="c4ca"),
    "found with a rare tag": Filter(tag=RARE, query="bread"),
    "unpublished found": Filter(published=False, query="abc"),
    "last hours": Filter(created_after=day(347)),
    "first hours": Filter(created_before=day(0.25)),
    "all but the first day": Filter(created_after=day(1)),
    "all but the last day": Filter(created_before=day(346)),
    "hours between": Filter(created_after=day(100), created_before=day(100.1)),
    "last hours of a busy author": Filter(author_id=BUSY, created_after=day(346)),
    "last hours with a rare tag": Filter(tag=RARE, created_after=day(347)),
    "everything at once": Filter(
        author_id=BUSY,
        published=True,
        tag=HOT,
        query="bread",
        created_after=day(10),
        created_before=day(340),
    ),
}
OF_AUTHORS = ("of a busy author", "of a brief author", "of a calm author", "of an idle author")


def assert_reads_little(
    plan: Plan, about: object, *, most_read: int = MOST_READ, most_sorted: int = MOST_SORTED
) -> None:
    # All tags are few enough to be looked at beside those of a page's posts.
    assert plan.read_through <= {"tags"}, (about, plan)
    assert plan.indexes, (about, plan)
    assert plan.read <= most_read, (about, plan)
    assert plan.sorted <= most_sorted, (about, plan)


def windows(*fields: str) -> Iterator[Window]:
    """The first page and one from the middle of the table, in every order."""
    for order in orders(*(fields or MIDDLE)):
        yield Window(order, None, 50)
        yield Window(order, MIDDLE[order.field], 50)


def page_of(name: str, window: Window, *, full: bool = False) -> Call:
    where = {**STATES, **VALUES}[name]
    return lambda read: posts.list_page(read, where, window, full=full)


# lists of posts


@pytest.mark.parametrize(
    ("name", "full"),
    [
        *((name, False) for name in (*STATES, *VALUES)),
        *((name, True) for name in ("everything", "unpublished", "of a busy author", "hot tag")),
        *((name, True) for name in ("rare tag", "some found", "last hours")),
    ],
)
async def test_a_page_reads_little_in_every_order_and_wherever_it_is(
    populated: Database, planner: asyncpg.Connection, name: str, *, full: bool
) -> None:
    kinds = (False, True) if name in STATES else (False,)
    for window in windows():
        for statement in await statements_of(populated, page_of(name, window, full=full)):
            for generic in kinds:
                plan = await plan_of(planner, statement, generic=generic)
                assert_reads_little(plan, (window, generic))


@pytest.mark.parametrize("name", OF_AUTHORS)
async def test_a_page_of_an_author_reads_the_posts_that_are_on_it(
    populated: Database, planner: asyncpg.Connection, name: str
) -> None:
    """Of an author who has no more than a page, they may be read off a bitmap and sorted."""
    for window in windows("id", "created_at"):
        statement = await statement_of(populated, page_of(name, window))
        plan = await plan_of(planner, statement, generic=False)
        rows = window.limit + 1
        assert_reads_little(plan, window, most_read=2 * rows, most_sorted=rows)


@pytest.mark.parametrize("name", ["hot tag", "warm tag", "rare tag"])
async def test_a_page_of_a_tag_by_id_reads_the_posts_that_are_on_it(
    populated: Database, planner: asyncpg.Connection, name: str
) -> None:
    for window in windows("id"):
        *_, statement = await statements_of(populated, page_of(name, window))
        for generic in (False, True):
            plan = await plan_of(planner, statement, generic=generic)
            rows = window.limit + 1
            assert_reads_little(plan, (window, generic), most_read=2 * rows, most_sorted=0)


@pytest.mark.parametrize("full", [False, True])
async def test_posts_by_id_are_planned_once_however_many_they_are(
    fresh: Database, *, full: bool
) -> None:
    async with fresh.read() as read:
        await assert_planned_once(
            read, lambda ids: posts.batch_get(read, ids, full=full), "%FROM posts%"
        )


@pytest.mark.parametrize(
    "name",
    [
        *("of a busy author", "of a calm author", "hot tag", "rare tag", "nothing found"),
        *("some found", "third found", "last hours", "hours between", "everything at once"),
    ],
)
async def test_a_page_is_planned_for_its_values_however_often_it_is_sent(
    fresh: Database, name: str
) -> None:
    pages = [window for window in windows("created_at", "title") if not window.order.descending]
    # PostgreSQL makes up its mind after five. Before, SQLAlchemy may prepare one of its own.
    times = 7
    async with fresh.read() as read:
        for window in pages:
            for _ in range(AGAIN - 1 + times):
                await page_of(name, window)(read)
        kept = await read.execute(
            text(
                "SELECT count(*), sum(generic_plans) FROM pg_prepared_statements"
                " WHERE generic_plans + custom_plans >= :times AND statement LIKE '%FROM posts%'"
            ),
            {"times": times},
        )
    assert kept.one() == (len(pages), 0)


@pytest.mark.parametrize(
    ("name", "order", "index"),
    [
        ("everything", "id", "pk_posts"),
        ("everything", "created_at", "ix_posts_created_at_id"),
        ("everything", "title", "ix_posts_title_key_id"),
        ("unpublished", "id", "ix_posts_unpublished"),
        *((name, "id", "ix_posts_author_id_id") for name in OF_AUTHORS[:2]),
        *((name, "created_at", "ix_posts_author_id_created_at_id") for name in OF_AUTHORS[:2]),
        ("last hours", "created_at", "ix_posts_created_at_id"),
        ("last hours", "id", "ix_posts_created_at_id"),
        ("first hours", "title", "ix_posts_created_at_id"),
        *(("one found", order, "ix_posts_search") for order in MIDDLE),
        *(("some found", order, "ix_posts_search") for order in MIDDLE),
    ],
)
async def test_a_filter_or_order_is_answered_by_its_index(
    populated: Database, planner: asyncpg.Connection, name: str, order: str, index: str
) -> None:
    for descending in (False, True):
        window = Window(Order(order, descending=descending), None, 50)
        statement = await statement_of(populated, page_of(name, window))
        assert (await plan_of(planner, statement, generic=False)).indexes == {index}


@pytest.mark.parametrize(
    "name",
    [
        *("of a calm author", "unpublished of a calm author", "rare tag", "nothing found"),
        *("some found", "last hours", "first hours", "hours between", "few found with a hot tag"),
    ],
)
async def test_a_count_of_few_reads_little(
    populated: Database, planner: asyncpg.Connection, name: str
) -> None:
    for statement in await statements_of(populated, lambda r: posts.count(r, VALUES[name])):
        assert_reads_little(await plan_of(planner, statement, generic=False), name)


# single posts


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_single_posts_are_read_by_their_ids(
    populated: Database, planner: asyncpg.Connection, *, generic: bool
) -> None:
    ids = list(range(1, POSTS, POSTS // 50))
    calls: dict[str, tuple[Call, int]] = {
        "summary": (lambda r: posts.get(r, 250_000, full=False), 1),
        # With the author, up to three links and all tags at worst.
        "full": (lambda r: posts.get(r, 250_000), 2_010),
        "batch": (lambda r: posts.batch_get(r, ids), len(ids)),
        "full batch": (lambda r: posts.batch_get(r, ids, full=True), 2_000 + 10 * len(ids)),
    }
    for name, (call, most) in calls.items():
        for statement in await statements_of(populated, call):
            plan = await plan_of(planner, statement, generic=generic)
            assert_reads_little(plan, name, most_read=most)


CHANGES: dict[str, tuple[Change, str]] = {
    "update": (lambda tx: posts.update(tx, 5, {"title": "x"}), "pk_posts"),
    "delete": (lambda tx: posts.delete(tx, 5), "pk_posts"),
    "remove tags": (lambda tx: tags.detach(tx, 5, [HOT, RARE]), "pk_post_tags"),
    "replace tags": (lambda tx: tags.replace(tx, 5, [HOT, RARE]), "pk_post_tags"),
    "find tags": (lambda tx: tags.ensure(tx, [HOT, RARE, "new"]), "uq_tags_name_key"),
    "rename tag": (lambda tx: tags.update(tx, 1_500, {"name": "x"}), "pk_tags"),
    "delete tag": (lambda tx: tags.delete(tx, 1_500), "pk_tags"),
}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("name", CHANGES)
async def test_changes_find_their_rows_by_an_index(
    populated: Database, planner: asyncpg.Connection, name: str, *, generic: bool
) -> None:
    change, index = CHANGES[name]
    statement = await first_sent_by(populated, change)
    plan = await plan_of(planner, statement, generic=generic, run=False)
    assert index in plan.indexes
    assert plan.read_through == set()


# lists of tags


def tag_windows(field: str) -> Iterator[Window]:
    middle: dict[str, Cursor] = {"name": Cursor("tag 15", 0), "post_count": Cursor(300, 500)}
    for order in orders(field):
        yield Window(order, None, 50)
        yield Window(order, middle[field], 50)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("prefix", ["", "t", "tag 1", "tag 19", "zzz"])
async def test_a_page_of_tags_by_name_counts_the_links_of_these_alone(
    populated: Database, planner: asyncpg.Connection, prefix: str, *, generic: bool
) -> None:
    """Most of them are those of the commonest tag, where that is on the page."""
    for window in tag_windows("name"):
        call: Call = lambda r: tags.list_page(r, prefix, window)  # noqa: B023, E731 - at once
        plan = await plan_of(planner, await statement_of(populated, call), generic=generic)
        assert "uq_tags_name_key" in plan.indexes, (window, plan)
        assert_reads_little(plan, window, most_read=LINKS // 5, most_sorted=0)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_a_page_of_tags_by_count_reads_every_link_once_and_off_the_index(
    populated: Database, planner: asyncpg.Connection, *, generic: bool
) -> None:
    links = (await run(populated, "SELECT count(*) FROM post_tags")).scalar_one()
    for window in tag_windows("post_count"):
        call: Call = lambda r: tags.list_page(r, "", window)  # noqa: B023, E731 - at once
        plan = await plan_of(planner, await statement_of(populated, call), generic=generic)
        assert "IndexOnlyScan ix_post_tags_tag_id_post_id" in plan.steps, plan
        assert plan.read_through <= {"tags"}
        assert plan.read <= links + 2 * 2_000, (window, plan)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_a_page_of_tags_by_count_reads_the_links_of_tags_with_the_prefix_alone(
    populated: Database, planner: asyncpg.Connection, *, generic: bool
) -> None:
    for window in tag_windows("post_count"):
        call: Call = lambda r: tags.list_page(r, "tag 19", window)  # noqa: B023, E731 - at once
        plan = await plan_of(planner, await statement_of(populated, call), generic=generic)
        assert_reads_little(plan, window)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_a_tag_is_found_by_the_index_of_its_key(
    populated: Database, planner: asyncpg.Connection, *, generic: bool
) -> None:
    calls: dict[str, Call] = {
        "pk_tags": lambda r: tags.get(r, Key("id", 1_999)),
        "uq_tags_name_key": lambda r: tags.get(r, Key("name", RARE)),
    }
    for index, call in calls.items():
        plan = await plan_of(planner, await statement_of(populated, call), generic=generic)
        assert plan.indexes == {index, "ix_post_tags_tag_id_post_id"}
        assert plan.read < 200


# authors


COUNTED = {
    "id": (Cursor(USERS // 2, USERS // 2), "pk_user_post_counts"),
    "post_count": (Cursor(3, USERS // 2), "ix_user_post_counts_post_count_user_id"),
}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("order", orders(*COUNTED), ids=str)
async def test_a_page_of_counts_reads_the_users_that_are_on_it(
    populated: Database, planner: asyncpg.Connection, order: Order, *, generic: bool
) -> None:
    middle, index = COUNTED[order.field]
    for after in (None, middle):
        window = Window(order, after, 50)
        call: Call = lambda r: authors.list_post_counts(r, window)  # noqa: B023, E731 - at once
        plan = await plan_of(planner, await statement_of(populated, call), generic=generic)
        assert plan.indexes == {index, "pk_users"}
        assert_reads_little(plan, window, most_read=2 * 51, most_sorted=51)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("profile", [False, True], ids=["basic", "profile"])
async def test_a_page_of_authors_is_a_semi_join_that_skips_who_published_nothing(
    populated: Database, planner: asyncpg.Connection, *, profile: bool, generic: bool
) -> None:
    where = users.Filter(has_published=True)
    for after in (None, Cursor(USERS // 2, USERS // 2)):
        window = Window(Order("id"), after, 50)
        call: Call = lambda r: users.list_page(r, where, window, profile=profile)  # noqa: B023, E731 - at once
        plan = await plan_of(planner, await statement_of(populated, call), generic=generic)
        assert "IndexOnlyScan ix_posts_published" in plan.steps
        assert_reads_little(plan, window, most_read=1_000, most_sorted=51)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_the_newest_posts_of_authors_of_many_are_all_that_is_read(
    populated: Database, planner: asyncpg.Connection, *, generic: bool
) -> None:
    ids = [BUSY, BRIEF, CALM, IDLE, 1, 2, 3]
    counting, newest = await statements_of(populated, lambda r: authors.recent(r, ids))
    plan = await plan_of(planner, counting, generic=generic)
    assert plan.indexes == {"pk_user_post_counts"}
    assert_reads_little(plan, counting, most_read=3 * len(ids))
    plan = await plan_of(planner, newest, generic=generic)
    assert "ix_posts_author_id_created_at_id" in plan.indexes
    assert_reads_little(plan, newest, most_read=len(ids) * (1 + authors.NEWEST))


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_statistics_read_the_posts_of_their_user(
    populated: Database, planner: asyncpg.Connection, *, generic: bool
) -> None:
    for user_id in (CALM, IDLE):
        statement = await statement_of(populated, lambda r: authors.statistics(r, user_id))  # noqa: B023 - at once
        assert_reads_little(
            await plan_of(planner, statement, generic=generic), user_id, most_read=500
        )


# who leaves


class _Undone(Exception):
    """Rolls a change back."""


async def test_a_user_of_a_hundred_thousand_posts_leaves_by_one_statement(
    populated: Database,
) -> None:
    left = {
        "posts of theirs": f"SELECT count(*) FROM posts WHERE author_id = {BUSY}",
        "posts": "SELECT count(*) FROM posts",
        "links to no post": "SELECT count(*) FROM post_tags"
        " WHERE NOT EXISTS (SELECT FROM posts WHERE id = post_id)",
        "counts that are wrong": "SELECT count(*) FROM user_post_counts FULL JOIN"
        " (SELECT users.id, count(posts.id) AS written FROM users"
        " LEFT JOIN posts ON author_id = users.id GROUP BY users.id) AS counted ON id = user_id"
        " WHERE post_count IS DISTINCT FROM written",
    }

    async def leave() -> None:
        async with sent_by(populated) as sent, populated.transaction() as tx:
            await users.delete(tx, BUSY)
            assert len(sent.statements) == 1
            found = {name: (await tx.execute(text(sql))).scalar_one() for name, sql in left.items()}
            assert found == {
                "posts of theirs": 0,
                "posts": POSTS - 100_000,
                "links to no post": 0,
                "counts that are wrong": 0,
            }
            raise _Undone

    with pytest.raises(_Undone):
        await leave()
