"""SQL about tags."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from storage import posts, tags
from storage.errors import AlreadyExists, NotFound, Stale
from storage.keyset import Order, Window
from storage.models import Tag
from storage.moments import Moment, moment_of
from storage.tags import Key, TagRow
from tests import factories
from tests.onlookers import until_waiting_for_a_lock
from tests.paging import all_pages, in_order, listed, orders
from tests.statements import run, sent_by, set_moments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from storage.database import Database
    from tests.paging import Fetch

ORDERS = orders("name", "post_count")
VALUES: dict[str, Callable[[TagRow], Any]] = {
    "id": lambda tag: tag.id,
    "name": lambda tag: tags.key_of(tag.name),
    "post_count": lambda tag: tag.post_count,
}
FAR_FUTURE = moment_of(datetime(2999, 12, 31, tzinfo=UTC))

# The same tag twice, and two tags, however alike they look.
SAME = [
    pytest.param("bread", "BREAD", id="ascii"),
    pytest.param("bread", "  bread\u00a0\u3000", id="spaces around"),
    pytest.param("Zo\u00eb", "ZOE\u0308", id="composed and decomposed"),
    pytest.param("Stra\u00dfe", "STRASSE", id="sharp s"),
    pytest.param("\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "σίσυφοσ", id="final sigma"),
]
DIFFERENT = [
    pytest.param("bread", "bre ad", id="space within"),
    pytest.param("e", "\u00e9", id="accent"),
    pytest.param("i", "\u0131", id="dotless i"),
    pytest.param("\U0001f44d", "\U0001f44d\U0001f3fd", id="skin tone"),
    pytest.param("c", "c++", id="signs"),
]


async def ensure(db: Database, names: Sequence[str]) -> dict[str, TagRow]:
    async with db.transaction() as tx:
        return await tags.ensure(tx, names)


async def get(db: Database, tag_id: int) -> TagRow:
    async with db.read() as read:
        return await tags.get(read, Key("id", tag_id))


async def rename(
    db: Database, tag: TagRow, name: str, *, unchanged_since: Moment | None = None
) -> TagRow:
    async with db.transaction() as tx:
        return await tags.update(tx, tag.id, {"name": name}, unchanged_since=unchanged_since)


async def remove(db: Database, tag_id: int) -> None:
    async with db.transaction() as tx:
        await tags.delete(tx, tag_id)


def fetch(db: Database, prefix: str = "") -> Fetch[TagRow]:
    async def page(window: Window) -> Any:  # noqa: ANN401 - a page of tags
        async with db.read() as read:
            return await tags.list_page(read, prefix, window)

    return page


async def names_of(db: Database, prefix: str = "") -> list[str]:
    return [tag.name for tag in await listed(fetch(db, prefix), Order("name"))]


# ensure and create


async def test_tags_are_made_trimmed_and_once_each_as_they_were_first_spelt(db: Database) -> None:
    made = await ensure(db, [" Zo\u00eb ", "bread", "ZOE\u0308", "Bread", "a  b"])
    assert {key: tag.name for key, tag in made.items()} == {
        "zo\u00eb": "Zo\u00eb",
        "bread": "bread",
        "a  b": "a  b",
    }
    assert await names_of(db) == ["a  b", "bread", "Zo\u00eb"]


@pytest.mark.parametrize(("first", "second"), SAME)
async def test_a_tag_that_there_is_is_returned_as_it_is(
    db: Database, first: str, second: str
) -> None:
    [made] = (await ensure(db, [first])).values()
    assert await ensure(db, [second]) == {tags.key_of(first): made}
    assert await names_of(db) == [first]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
async def test_names_that_differ_by_more_than_case_are_two_tags(
    db: Database, first: str, second: str
) -> None:
    await ensure(db, [first, second])
    assert len(await names_of(db)) == 2


async def test_no_names_make_no_tags(db: Database) -> None:
    async with sent_by(db) as sent:
        assert await ensure(db, []) == {}
    assert sent.statements == []


async def test_created_tags_come_in_the_order_asked_each_with_its_count(db: Database) -> None:
    post = await factories.add_post(db, tags=["b", "d"])
    made = await factories.add_tags(db, "c", "B", "a", " C", "d")
    assert [(tag.name, tag.post_count) for tag in made] == [
        *(("c", 0), ("b", 1), ("a", 0), ("c", 0), ("d", 1)),
    ]
    assert [made[1].id, made[4].id] == [tag.id for tag in post.tags]
    assert made == [await get(db, tag.id) for tag in made]


async def test_a_thousand_tags_are_made_or_found_in_a_few_statements(db: Database) -> None:
    names = [f"tag {number}" for number in range(1000)]
    for rows, expected in ((1, 3), (10, 3), (1000, 3), (1000, 1)):
        async with sent_by(db) as sent:
            assert len(await ensure(db, names[:rows])) == rows
        assert len(sent.statements) <= expected


@pytest.mark.parametrize("backwards", [False, True], ids=["same order", "opposite orders"])
async def test_callers_who_make_the_same_tags_at_once_all_succeed(
    db: Database, shared_url: str, *, backwards: bool
) -> None:
    """Held up in the middle, each has made only tags that the other has to wait for first."""
    names = [f"tag {number:03}" for number in range(1000)]
    async with db.transaction() as tx:
        await tags.ensure(tx, names[500:501])
        racing = [
            asyncio.ensure_future(ensure(db, names[::-1] if backwards and number % 2 else names))
            for number in range(4)
        ]
        await until_waiting_for_a_lock(shared_url, callers=4)
    first, *others = [
        {key: tag.id for key, tag in found.items()} for found in await asyncio.gather(*racing)
    ]
    assert sorted(first) == names
    assert all(other == first for other in others)
    assert await names_of(db) == names


async def test_a_tag_that_was_not_made_after_all_is_made_by_who_waited(
    db: Database, shared_url: str
) -> None:
    class GivenUp(Exception):
        pass

    with suppress(GivenUp):
        async with db.transaction() as tx:
            await tags.ensure(tx, ["x"])
            making = asyncio.ensure_future(ensure(db, ["X"]))
            await until_waiting_for_a_lock(shared_url)
            raise GivenUp
    [made] = (await making).values()
    assert made.name == "X"
    assert await names_of(db) == ["X"]


async def test_a_tag_that_is_deleted_while_it_is_looked_up_is_made_again(
    db: Database, shared_url: str
) -> None:
    [old] = await factories.add_tags(db, "x")
    async with db.transaction() as tx:
        await tags.delete(tx, old.id)
        making = asyncio.ensure_future(ensure(db, ["x", "y"]))
        await until_waiting_for_a_lock(shared_url)
    made = await making
    assert made["x"].id > old.id
    assert await names_of(db) == ["x", "y"]


# tags of posts


async def test_a_post_that_is_given_a_tag_while_it_is_deleted_is_given_a_new_one(
    db: Database, shared_url: str
) -> None:
    before = await factories.add_post(db, tags=["x"])
    other = await factories.add_post(db)

    async def give() -> posts.PostRow:
        async with db.transaction() as tx:
            return await posts.add_tags(tx, other.id, ["x"])

    async with db.transaction() as tx:
        await tags.delete(tx, before.tags[0].id)
        giving = asyncio.ensure_future(give())
        await until_waiting_for_a_lock(shared_url)
    after = await giving
    assert [tag.id > before.tags[0].id for tag in after.tags] == [True]
    async with db.read() as read:
        assert (await posts.get(read, before.id)).tags == []


async def test_a_tag_that_is_deleted_while_a_post_is_given_it_goes_after_that(
    db: Database, shared_url: str
) -> None:
    post = await factories.add_post(db)
    [tag] = await factories.add_tags(db, "x")
    async with db.transaction() as tx:
        after = await posts.add_tags(tx, post.id, ["x"])
        removing = asyncio.ensure_future(remove(db, tag.id))
        await until_waiting_for_a_lock(shared_url)
    await removing
    assert [each.id for each in after.tags] == [tag.id]
    async with db.read() as read:
        assert (await posts.get(read, post.id)).tags == []
    assert await names_of(db) == []


async def test_the_tags_of_posts_come_by_name_and_only_of_those_that_have_any(
    db: Database,
) -> None:
    first = await factories.add_post(db, tags=["b", "C", "a", "\u00e9"])
    second = await factories.add_post(db, tags=["b"])
    bare = await factories.add_post(db)
    async with db.read() as read:
        found = await posts.batch_get(read, [first.id, second.id, bare.id], full=True)
    assert {post_id: [tag.name for tag in post.tags] for post_id, post in found.items()} == {
        first.id: ["a", "b", "C", "\u00e9"],
        second.id: ["b"],
        bare.id: [],
    }
    assert found[first.id].tags[1] == found[second.id].tags[0]


@pytest.mark.parametrize("microsecond", [0, 1, 500_000, 999_999])
async def test_a_tag_of_a_post_is_as_it_is_by_itself(db: Database, microsecond: int) -> None:
    names = ['"', "'", "\\", "\\n", "[1, 2]", "null", "\N{OWL}", "a\u2028b", "a\u0300"]
    post = await factories.add_post(db, tags=names)
    moment = moment_of(datetime(1969, 12, 31, 23, 59, 59, microsecond, UTC))
    async with db.transaction() as tx:
        await tx.execute(update(Tag).values(updated_at=moment))
        found = (await posts.get(tx, post.id)).tags
        alone = [await tags.get(tx, Key("id", tag.id)) for tag in found]
    assert sorted(tag.name for tag in found) == sorted(names)
    assert list(found) == [tag._replace(post_count=None) for tag in alone]
    assert {tag.updated_at for tag in found} == {moment}


# get and find_id


@pytest.mark.parametrize(("first", "second"), SAME)
async def test_a_tag_is_found_by_id_and_by_name_in_any_case_with_its_count(
    db: Database, first: str, second: str
) -> None:
    await factories.add_post(db, tags=[first, "other"])
    await factories.add_post(db, tags=[second])
    [made] = await factories.add_tags(db, first)
    assert made.post_count == 2
    async with sent_by(db) as sent, db.read() as read:
        assert await tags.get(read, Key("name", second)) == made
        assert await tags.get(read, Key("id", made.id)) == made
        assert await tags.find_id(read, second) == made.id
    assert len(sent.statements) == 3


@pytest.mark.parametrize(
    "key", [Key("id", 0), Key("id", 2**63 - 1), Key("name", "brea"), Key("name", "bread%")]
)
async def test_an_unknown_key_is_not_found_and_named_as_given(db: Database, key: Key) -> None:
    await factories.add_tags(db, "bread")
    async with db.read() as read:
        with pytest.raises(NotFound) as missed:
            await tags.get(read, key)
        assert await tags.find_id(read, str(key.value)) is None
    assert (missed.value.resource, missed.value.name) == ("tag", str(key.value))


# list_page


async def _add_ties(db: Database) -> list[TagRow]:
    """Adds 12 tags on 0 to 3 posts each, three on each number of them."""
    names = (
        "b",
        "\u00c9a",
        "_x",
        "e",
        "Zo\u00eb",
        "c++",
        "C",
        "ca",
        "\U0001f9ee",
        "zz",
        "%",
        "c a",
    )
    made = await factories.add_tags(db, *names)
    author = await factories.add_user(db)
    for number in range(3):
        chosen = [name for at, name in enumerate(names) if at % 4 > number]
        await factories.add_post(db, author_id=author.id, tags=chosen)
    return [await get(db, tag.id) for tag in made]


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_hold_every_tag_once_and_in_order_with_its_count(
    db: Database, order: Order
) -> None:
    everything = in_order(await _add_ties(db), order, VALUES)
    assert [tag.post_count for tag in everything].count(0) == 3
    for limit in (1, 5, 11, 12, 13):
        assert await listed(fetch(db), order, limit=limit) == everything
    for prefix in ("c", "C", "z", "\u00e9", "x", "%", "_", "c ", "\\"):
        expected = [tag for tag in everything if tags.key_of(tag.name).startswith(prefix.lower())]
        assert await listed(fetch(db, prefix), order, limit=1) == expected, prefix
        assert await listed(fetch(db, prefix), order) == expected, prefix


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("STRASS", True),
        ("stra\u00df", True),
        ("stra", True),
        ("Stra\u00dfe 1", True),
        ("tra", False),
        ("stras ", False),
        ("Stra\u00dfe 12", False),
    ],
)
@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_a_prefix_is_matched_in_any_case(
    db: Database, order: Order, prefix: str, *, found: bool
) -> None:
    await factories.add_tags(db, "Stra\u00dfe 1", "sun")
    listed_names = [tag.name for tag in await listed(fetch(db, prefix), order)]
    assert listed_names == (["Stra\u00dfe 1"] if found else [])


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_a_prefix_finds_whatever_follows_it(db: Database, order: Order) -> None:
    """Also the last characters that there are, and as many of them as a name can have."""
    last = "\U0010ffff"
    names = ["a", f"a{last}", f"a{last * 49}", f"a{last}z", last * 50]
    await factories.add_tags(db, *names, "b")
    assert len(await listed(fetch(db, "A"), order, limit=2)) == 4
    assert len(await listed(fetch(db, last), order)) == 1
    assert len(await listed(fetch(db), order)) == 6


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_a_list_of_no_tags_is_one_empty_page(db: Database, order: Order) -> None:
    for prefix in ("", "x"):
        page = await fetch(db, prefix)(Window(order, None, 5))
        assert (page.rows, page.next) == ([], None)


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_a_page_is_one_statement_whatever_its_size(db: Database, order: Order) -> None:
    await factories.add_tags(db, *(f"tag {number}" for number in range(1000)))
    for rows, prefix in itertools.product((1, 10, 1000), ("", "tag")):
        async with sent_by(db) as sent:
            page = await fetch(db, prefix)(Window(order, None, rows))
        assert len(page.rows) == rows
        assert (len(sent.statements), sent.frames) == (1, [])


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_what_is_there_throughout_is_seen_once_whatever_comes_and_goes(
    db: Database, order: Order
) -> None:
    residents = await _add_ties(db)
    ids = {tag.id for tag in residents}
    seen: list[TagRow] = []
    async with _coming_and_going(db):
        async for page in all_pages(fetch(db), order, limit=2):
            seen += page
            # The row that the next page starts after may go too.
            for tag in page:
                if tag.id not in ids:
                    await _forget(db, tag.id)
    found = [tag for tag in seen if tag.id in ids]
    assert found == in_order(residents, order, VALUES)
    if order.field == "name":
        # By count, a tag that is put on a post meanwhile moves to where it may be seen again.
        assert len(seen) == len({tag.id for tag in seen})


@asynccontextmanager
async def _coming_and_going(db: Database) -> AsyncIterator[None]:
    """Makes, uses and removes tags throughout a block, all over every order."""

    async def churn(first: str) -> None:
        for number in range(12):
            name = f"{first}{number}"
            post = await factories.add_post(db, tags=[name])
            if number % 2:
                await factories.add_post(db, author_id=post.author_id, tags=[name])
            if number % 3:
                await _forget(db, post.tags[0].id)

    churning = [asyncio.ensure_future(churn(first)) for first in ("aa", "\u00e9", "D", "~")]
    try:
        yield
    finally:
        for task in churning:
            task.cancel()
        await asyncio.gather(*churning, return_exceptions=True)


async def _forget(db: Database, tag_id: int) -> None:
    with suppress(NotFound):
        await remove(db, tag_id)


# update


@pytest.mark.parametrize(("old", "new"), [("bread", "Baking"), ("bread", "BREAD"), ("e", "\u00e9")])
async def test_a_renamed_tag_keeps_its_posts_and_moves_its_moment(
    db: Database, old: str, new: str
) -> None:
    post = await factories.add_post(db, tags=[old, "other"])
    before, other = await factories.add_tags(db, old, "other")
    after = await rename(db, before, f" {new}  ")
    assert after == before._replace(name=new, updated_at=after.updated_at)
    assert after.updated_at > before.updated_at
    assert after == await get(db, before.id)
    assert await get(db, other.id) == other
    async with db.read() as read:
        assert await tags.find_id(read, new) == before.id
        found = await posts.get(read, post.id)
    assert new in [tag.name for tag in found.tags]
    assert found.updated_at == post.updated_at


async def test_the_old_name_of_a_renamed_tag_is_free(db: Database) -> None:
    [tag] = await factories.add_tags(db, "old")
    await rename(db, tag, "new")
    [heir] = await factories.add_tags(db, "OLD")
    assert heir.id != tag.id


async def test_a_name_that_another_tag_has_is_refused_and_changes_nothing(db: Database) -> None:
    tag, _ = await factories.add_tags(db, "bread", "Stra\u00dfe")
    with pytest.raises(AlreadyExists) as refused:
        await rename(db, tag, " STRASSE ")
    assert (refused.value.resource, refused.value.field) == ("tag", "name")
    assert await get(db, tag.id) == tag


async def test_of_two_who_race_for_a_name_one_gets_it(db: Database, shared_url: str) -> None:
    first, second = await factories.add_tags(db, "first", "second")
    async with db.transaction() as tx:
        await tags.update(tx, first.id, {"name": "x"})
        renaming = asyncio.ensure_future(rename(db, second, "X"))
        await until_waiting_for_a_lock(shared_url)
    with pytest.raises(AlreadyExists):
        await renaming
    assert await names_of(db) == ["second", "x"]


@pytest.mark.parametrize("changes", [{}, {"name": "bread"}, {"name": " bread "}])
async def test_an_update_to_the_same_name_leaves_the_moment(
    db: Database, changes: dict[str, str]
) -> None:
    [tag] = await factories.add_tags(db, "bread")
    async with db.transaction() as tx:
        assert await tags.update(tx, tag.id, changes) == tag
    assert await get(db, tag.id) == tag


async def test_a_change_moves_the_moment_forward_when_the_clock_is_behind_it(
    db: Database,
) -> None:
    [tag] = await factories.add_tags(db, "a")
    await set_moments(db, Tag.updated_at, lambda *_: FAR_FUTURE)
    assert (await rename(db, tag, "a")).updated_at == FAR_FUTURE
    assert (await rename(db, tag, "b")).updated_at == FAR_FUTURE + 1
    async with db.transaction() as tx:
        for ticks, name in enumerate("cde", start=2):
            after = await tags.update(tx, tag.id, {"name": name})
            assert after.updated_at == FAR_FUTURE + ticks


async def test_an_update_holds_only_for_the_state_that_it_was_made_for(db: Database) -> None:
    [read] = await factories.add_tags(db, "a")
    changed = await rename(db, read, "theirs")
    with pytest.raises(Stale) as refused:
        await rename(db, read, "mine", unchanged_since=read.updated_at)
    assert (refused.value.resource, refused.value.name) == ("tag", str(read.id))
    assert await get(db, read.id) == changed
    assert (await rename(db, read, "b", unchanged_since=changed.updated_at)).name == "b"


@pytest.mark.parametrize("since", [None, FAR_FUTURE])
async def test_an_update_or_deletion_of_nothing_is_not_found(
    db: Database, since: Moment | None
) -> None:
    async with db.transaction() as tx:
        for attempt in (
            tags.update(tx, 12345, {"name": "x"}, unchanged_since=since),
            tags.delete(tx, 12345),
        ):
            with pytest.raises(NotFound) as missed:
                await attempt
            assert (missed.value.resource, missed.value.name) == ("tag", "12345")


# delete


async def test_a_deleted_tag_is_gone_from_posts_that_stay(db: Database) -> None:
    post = await factories.add_post(db, tags=["x", "y"])
    bare = await factories.add_post(db, tags=["x"])
    tag = post.tags[0]
    async with sent_by(db) as sent, db.transaction() as tx:
        await tags.delete(tx, tag.id)
    assert len(sent.statements) == 1
    async with db.read() as read:
        found = await posts.batch_get(read, [post.id, bare.id], full=True)
    assert [[each.name for each in found[one.id].tags] for one in (post, bare)] == [["y"], []]
    assert found[post.id].updated_at == post.updated_at
    assert await names_of(db) == ["y"]
    links = await run(db, "SELECT post_id, tag_id FROM post_tags")
    assert [tuple(link) for link in links] == [(post.id, post.tags[1].id)]
