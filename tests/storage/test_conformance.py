"""What holds on every database alike, with the text, the numbers and the moments that part them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text, update

from storage import audit, authors, credits, holds, keyset, posts, profiles, requests, tags, users
from storage.accounts import MOST
from storage.casefold import fold
from storage.errors import (
    AlreadyExists,
    Contention,
    HasCredits,
    InsufficientCredits,
    NotFound,
    Overflow,
    Stale,
    StorageError,
)
from storage.models import LedgerEntry, Post, User
from storage.moments import LAST, SECOND, Moment, moment_of
from storage.requests import AlreadyAnswered, Claim, Key
from storage.transfers import State
from tests import factories
from tests.differences import Difference, differs
from tests.factories import grant, hold, transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.database import Database

Result = TypeVar("Result")

# Beyond the Basic Multilingual Plane: four bytes of UTF-8 each.
WIDE = "🦉𝒜𠀀"
SAME = [
    ("ada", "ADA"),
    ("Ærø", "ærØ"),
    ("straße", "STRASSE"),
    ("caf\u00e9", "CAFE\u0301"),
    ("\u0130x", "i\u0307X"),
    ("ΣΊΣΥΦΟΣ", "σίσυφος"),
    ("🦉owl", "🦉OWL"),
    ("\ufb03x", "FFIX"),
]
DIFFERENT = [
    ("cafe", "café"),
    ("I", "\u0131"),
    ("bob", "bob "),
    ("bob", " bob"),
    ("a\u200db", "ab"),
    ("🦉", "🦅"),
    ("ß", "s"),
    ("o", "ö"),
]


@pytest.mark.parametrize("field", ["email", "username"])
@pytest.mark.parametrize(("one", "other"), SAME)
async def test_names_that_differ_by_case_are_one(
    db: Database, field: str, one: str, other: str
) -> None:
    await factories.add_user(db, **{field: one})
    with pytest.raises(AlreadyExists) as taken:
        await factories.add_user(db, **{field: other})
    assert (taken.value.resource, taken.value.field) == ("user", field)
    async with db.read() as read:
        found = await users.get(read, users.Key(field, other))  # type: ignore[arg-type] # of two
    assert getattr(found, field) == one


@pytest.mark.parametrize("field", ["email", "username"])
@pytest.mark.parametrize(("one", "other"), DIFFERENT)
async def test_names_that_differ_by_more_are_two(
    db: Database, field: str, one: str, other: str
) -> None:
    made = [await factories.add_user(db, **{field: each}) for each in (one, other)]
    async with db.read() as read:
        found = [await users.get(read, users.Key(field, each)) for each in (one, other)]  # type: ignore[arg-type] # of two
    assert found == made


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_tags_that_differ_by_case_are_one(db: Database, one: str, other: str) -> None:
    first, second = await factories.add_tags(db, one, f" {other} ")
    assert first == second
    assert first.name == one


async def test_every_text_is_kept_to_the_code_point(db: Database) -> None:
    user = await factories.add_user(
        db, email=f"{WIDE}@example.com", username=WIDE, full_name=f" {WIDE} "
    )
    profile = await factories.add_profile(db, user.id, bio=f"{WIDE}\n", avatar_url=f"x/{WIDE}")
    post = await factories.add_post(
        db, author_id=user.id, title=f"{WIDE} ", content=f"{WIDE} \t", tags=[WIDE]
    )
    await factories.make(db, grant(user.id, 1, memo=f"{WIDE} "))
    async with db.read() as read:
        assert await users.get(read, users.Key("id", user.id)) == user
        assert await profiles.get(read, user.id) == profile
        assert await posts.get(read, post.id) == post
        memo = (await read.execute(select(LedgerEntry.memo))).scalar_one()
    assert (user.username, user.full_name, profile.bio) == (WIDE, f" {WIDE} ", f"{WIDE}\n")
    assert (post.title, post.content, post.tags[0].name) == (f"{WIDE} ", f"{WIDE} \t", WIDE)
    assert memo == f"{WIDE} "


async def test_a_long_text_is_kept_whole(db: Database) -> None:
    content = WIDE * 33_333
    post = await factories.add_post(db, content=content)
    async with db.read() as read:
        assert (await posts.get(read, post.id)).content == content


DATETIMES = [
    datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
    datetime(2100, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
]
MOMENTS = [moment_of(each) for each in DATETIMES]


@pytest.mark.parametrize("moment", MOMENTS, ids=map(str, DATETIMES))
async def test_moments_are_kept_to_the_microsecond(db: Database, moment: Moment) -> None:
    user = await factories.add_user(db)
    async with db.transaction() as tx:
        await tx.execute(update(User).values({User.created_at: moment}))
    async with db.read() as read:
        assert (await users.get(read, users.Key("id", user.id))).created_at == moment
        for bound, count in ((moment - 1, 1), (moment, 0), (moment + 1, 0)):
            assert await users.count(read, users.Filter(created_after=bound)) == count
        assert await users.count(read, users.Filter(created_before=moment + 1)) == 1


async def test_the_last_moment_of_all_is_kept(db: Database) -> None:
    user = await factories.add_user(db)
    async with db.transaction() as tx:
        await tx.execute(update(User).values({User.created_at: LAST}))
    async with db.read() as read:
        assert (await users.get(read, users.Key("id", user.id))).created_at == LAST
        for bound, count in ((LAST - 1, 1), (LAST, 0)):
            assert await users.count(read, users.Filter(created_after=bound)) == count


NAMES = ["zoe", "Ada", "🦉", "Émile", "_x", "eve", "0", "ada2", "Zed", "\uffee", "ß"]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 11, 50])
async def test_names_are_sorted_by_the_code_points_of_their_folded_form(
    db: Database, limit: int, *, descending: bool
) -> None:
    for name in NAMES:
        await factories.add_user(db, username=name)
    seen = await all_pages(db, keyset.Order("username", descending), limit)
    assert seen == sorted(NAMES, key=fold, reverse=descending)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("field", ["created_at", "id"])
@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_ties_are_broken_by_id(
    db: Database, limit: int, field: str, *, descending: bool
) -> None:
    made = [await factories.add_user(db) for _ in range(7)]
    async with db.transaction() as tx:
        # Two moments for seven users.
        for place, user in enumerate(made):
            moment = MOMENTS[place % 2]
            await tx.execute(
                update(User).where(User.id == user.id).values({User.created_at: moment})
            )
    key: Callable[[int], Any] = (
        (lambda place: (MOMENTS[place % 2], made[place].id))
        if field == "created_at"
        else (lambda place: made[place].id)
    )
    expected = [made[each].username for each in sorted(range(7), key=key, reverse=descending)]
    assert await all_pages(db, keyset.Order(field, descending), limit) == expected


async def all_pages(db: Database, order: keyset.Order, limit: int) -> list[str]:
    """The usernames of all users, read page by page."""
    seen: list[str] = []
    after: keyset.Cursor | None = None
    for _ in range(100):
        async with db.read() as read:
            window = keyset.Window(order, after, limit)
            page = await users.list_page(read, users.Filter(), window)
        seen += [user.username for user in page.rows]
        after = page.next
        if after is None:
            return seen
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("amount", [1, 2**31, 2**53 + 1, MOST - 1, MOST])
async def test_credits_are_counted_to_the_last_of_64_bits(db: Database, amount: int) -> None:
    (ada,) = await factories.add_users_with(db, 0)
    made = await factories.make(db, grant(ada, amount))
    assert made.amount == amount
    async with db.read() as read:
        assert (await credits.get_balance(read, ada)).available == amount
    with pytest.raises(Overflow):
        await factories.make(db, grant(ada, MOST - amount + 1))


async def test_what_cannot_be_is_refused_and_changes_nothing(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    with pytest.raises(InsufficientCredits) as told:
        await factories.make(db, transfer(ada, bob, 11))
    assert (told.value.available, told.value.required) == (10, 11)
    with pytest.raises(NotFound):
        await factories.make(db, transfer(ada, 987_654, 1))
    async with db.transaction() as tx:
        asked = [transfer(ada, bob, 4), transfer(ada, bob, 7), transfer(bob, ada, 1)]
        linked = await credits.make_all(tx, asked, atomic=True)
        assert all(isinstance(each, StorageError) for each in linked)
        outcomes = await credits.make_all(tx, asked)
    assert [isinstance(each, StorageError) for each in outcomes] == [False, True, False]
    async with db.read() as read:
        held = [await credits.get_balance(read, each) for each in (ada, bob)]
    assert [each.available for each in held] == [7, 3]
    await audited(db)


@pytest.mark.parametrize("count", [1, 10, 1000])
async def test_a_batch_of_any_size_is_made_in_order(db: Database, count: int) -> None:
    ada, *others = await factories.add_users_with(db, *[count] * 5)
    async with db.transaction() as tx:
        asked = [transfer(ada, others[each % 4], 1, memo=str(each)) for each in range(count)]
        made = await credits.make_all(tx, asked)
    rows = [each for each in made if not isinstance(each, StorageError)]
    assert [row.memo for row in rows] == [str(each) for each in range(count)]
    assert all(one.id < other.id for one, other in pairwise(rows))
    async with db.read() as read:
        assert (await credits.get_balance(read, ada)).available == 0
    await audited(db)


async def test_a_hold_is_captured_in_part_released_or_expires(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 100, 0)
    captured, released, expired = [
        await factories.make(db, hold(ada, bob, 20, timedelta(days=1))) for _ in range(3)
    ]
    async with db.transaction() as tx:
        end = await holds.capture(tx, captured.id, 5)
        assert (end.state, end.captured_amount) == (State.CAPTURED, 5)
        assert (await holds.release(tx, released.id)).state is State.RELEASED
        past = moment_of(datetime.now(UTC)) - SECOND
        await tx.execute(text("UPDATE open_holds SET amount = amount"))
    async with db.read() as read:
        found = await credits.get_balance(read, ada)
        assert (found.available, found.held) == (75, 20)
    assert expired.expires_at is not None
    assert expired.expires_at > past
    await audited(db)


async def test_a_hold_that_has_expired_is_given_back_by_whoever_comes(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 100, 0)
    await factories.make(db, hold(ada, bob, 20, timedelta(microseconds=1)))
    async with db.read() as read:
        found = await credits.get_balance(read, ada)
    assert (found.available, found.held) == (100, 0)
    async with db.transaction() as tx:
        assert await holds.release_expired(tx, 10) == 1
    await factories.make(db, transfer(ada, bob, 100))
    await audited(db)


async def audited(db: Database) -> None:
    """Checks that the ledger agrees with what is kept of it."""
    async with db.read(snapshot=True) as read:
        assert (await audit.audit(read)).discrepancies == []


@pytest.mark.parametrize("statement", ["UPDATE ledger SET amount = 2", "DELETE FROM ledger"])
async def test_the_ledger_is_only_added_to(db: Database, statement: str) -> None:
    await factories.add_users_with(db, 1)
    with pytest.raises(StorageError):
        async with db.transaction() as tx:
            await tx.execute(text(statement))
    await audited(db)


async def test_a_user_with_credits_stays(db: Database) -> None:
    ada, bob, cleo = await factories.add_users_with(db, 1, 1, 0)
    await factories.make(db, hold(bob, cleo, 1, timedelta(days=1)))
    for each in (ada, bob, cleo):
        with pytest.raises(HasCredits):
            async with db.transaction() as tx:
                await users.delete(tx, each)
    async with db.read() as read:
        assert len(await users.batch_get(read, [ada, bob, cleo])) == 3


async def test_what_belongs_to_a_user_goes_with_them(db: Database) -> None:
    ada, bob = [await factories.add_user(db) for _ in range(2)]
    await factories.add_profile(db, ada.id)
    for author in (ada, ada, bob):
        await factories.add_post(db, author_id=author.id, tags=["shared"])
    async with db.transaction() as tx:
        await users.delete(tx, ada.id)
    async with db.read() as read:
        with pytest.raises(NotFound):
            await profiles.get(read, ada.id)
        assert await posts.count(read, posts.Filter()) == 1
        assert (await tags.get(read, tags.Key("name", "SHARED"))).post_count == 1
        window = keyset.Window(keyset.Order("post_count", descending=True), None, 10)
        counts = await authors.list_post_counts(read, window)
    assert [(row.user_id, row.post_count) for row in counts.rows] == [(bob.id, 1)]


async def test_an_id_is_never_given_twice(db: Database) -> None:
    first = await factories.add_user(db)
    async with db.transaction() as tx:
        await users.delete(tx, first.id)
    assert (await factories.add_user(db)).id > first.id


async def test_the_newest_posts_of_each_author_are_the_newest(db: Database) -> None:
    ada, bob = [await factories.add_user(db) for _ in range(2)]
    written = {each.id: await factories.add_posts(db, each.id, 25) for each in (ada, bob)}
    async with db.transaction() as tx:
        for rows in written.values():
            for place, post in enumerate(rows):
                moment = MOMENTS[0] + place // 2 * 60 * SECOND
                await tx.execute(
                    update(Post).where(Post.id == post.id).values({Post.created_at: moment})
                )
    async with db.read() as read:
        found = await authors.recent(read, [ada.id, bob.id])
    assert found.counts == {ada.id: 25, bob.id: 25}
    for author, rows in written.items():
        newest = [post.id for post in reversed(rows)][: authors.NEWEST]
        assert [post.id for post in found.newest[author]] == newest


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("field", ["name", "post_count"])
@pytest.mark.parametrize("limit", [1, 2, 10])
async def test_tags_are_listed_by_name_and_by_count(
    db: Database, limit: int, field: str, *, descending: bool
) -> None:
    counts = {"alpha": 2, "Alps": 0, "beta": 1, "alto": 2, "🦉": 1}
    await factories.add_tags(db, *counts)
    for name, count in counts.items():
        for _ in range(count):
            await factories.add_post(db, tags=[name])
    places = {name: place for place, name in enumerate(counts)}
    by: dict[str, Callable[[str], Any]] = {
        "name": tags.key_of,
        "post_count": lambda name: (counts[name], places[name]),
    }
    for prefix in ("", "AL"):
        wanted = [name for name in counts if tags.key_of(name).startswith(prefix.lower())]
        seen: list[tuple[str, int | None]] = []
        after: keyset.Cursor | None = None
        for _ in range(20):
            window = keyset.Window(keyset.Order(field, descending), after, limit)
            async with db.read() as read:
                page = await tags.list_page(read, prefix, window)
            seen += [(row.name, row.post_count) for row in page.rows]
            after = page.next
            if after is None:
                break
        expected = sorted(wanted, key=by[field], reverse=descending)
        assert seen == [(name, counts[name]) for name in expected]


async def test_a_change_moves_the_moment_and_none_leaves_it(db: Database) -> None:
    user = await factories.add_user(db, full_name="Ada")
    async with db.transaction() as tx:
        same = await users.update(tx, user.id, {"full_name": "Ada"})
        cleared = await users.update(tx, user.id, {"full_name": None})
        again = await users.update(tx, user.id, {"full_name": None})
    assert same.updated_at == user.updated_at
    assert cleared.updated_at > user.updated_at
    assert again == cleared
    with pytest.raises(Stale):
        async with db.transaction() as tx:
            await users.update(tx, user.id, {"role": "admin"}, unchanged_since=user.updated_at)
    with pytest.raises(NotFound):
        async with db.transaction() as tx:
            await users.update(tx, 987_654, {"role": "admin"})


async def test_a_profile_is_made_once_and_then_changed(db: Database) -> None:
    user = await factories.add_user(db)
    async with db.transaction() as tx:
        made = await profiles.update_or_create(tx, user.id, {"bio": "One."})
    async with db.transaction() as tx:
        changed = await profiles.update_or_create(tx, user.id, {"avatar_url": "x"})
    assert (changed.bio, changed.avatar_url) == ("One.", "x")
    assert changed.updated_at > made.updated_at
    with pytest.raises(NotFound):
        async with db.transaction() as tx:
            await profiles.update_or_create(tx, 987_654, {"bio": "Nobody's."})


async def test_a_transaction_that_fails_leaves_nothing(db: Database) -> None:
    async def make(*names: str) -> None:
        async with db.transaction() as tx:
            for name in names:
                await users.create(tx, factories.new_user(username=name))

    with pytest.raises(AlreadyExists):
        await make("ada", "ADA")
    async with db.read() as read:
        assert await users.count(read, users.Filter()) == 0


async def test_the_statements_of_a_snapshot_agree(db: Database) -> None:
    await factories.add_user(db)
    async with db.read(snapshot=True) as read:
        assert await users.count(read, users.Filter()) == 1
        await factories.add_user(db)
        assert await users.count(read, users.Filter()) == 1
    async with db.read() as read:
        assert await users.count(read, users.Filter()) == 2


async def test_a_request_is_answered_once(db: Database) -> None:
    key = Key("", "/byline", UUID(int=1))
    claim = Claim(key, {"user.full_name": "a digest"})
    async with db.transaction() as tx:
        await requests.claim(tx, claim)
        await requests.keep(tx, key, b"\x00\xff answer")
    with pytest.raises(AlreadyAnswered) as told:
        async with db.transaction() as tx:
            await requests.claim(tx, claim)
    assert told.value.found == requests.Answered(claim.digests, b"\x00\xff answer")
    async with db.transaction() as tx:
        assert await requests.purge(tx, timedelta(hours=1)) == 0
        assert await requests.purge(tx, timedelta(0)) == 1
    async with db.read() as read:
        assert await requests.find(read, key) is None


async def test_a_request_that_is_given_up_was_not_made(db: Database) -> None:
    keys = [Key("", "/byline", UUID(int=each)) for each in range(3)]
    async with db.transaction() as tx:
        assert await requests.claim_all(tx, [Claim(key, {}) for key in keys]) == {}
        await requests.keep_all(tx, {key: key.method.encode() for key in keys[:2]})
        await requests.yield_all(tx, keys[2:])
    async with db.read() as read:
        found = [await requests.find(read, key) for key in keys]
    assert [each and each.answer for each in found] == [b"/byline", b"/byline", None]


async def patiently(act: Callable[[], Awaitable[Result]]) -> Result:
    """Acts again while others are in the way, as the pipeline does.

    MariaDB finds deadlocks where the others find none.
    """
    while True:
        try:
            return await act()
        except Contention:
            await asyncio.sleep(0)


async def test_any_number_who_make_the_same_tags_at_once_get_the_same(db: Database) -> None:
    names = [f"tag {number}" for number in range(5)]

    async def make(shift: int) -> dict[str, int]:
        wanted = [*names[shift % 5 :], *names[: shift % 5]]
        async with db.transaction() as tx:
            return {key: tag.id for key, tag in (await tags.ensure(tx, wanted)).items()}

    made = await asyncio.gather(*(patiently(partial(make, each)) for each in range(20)))
    assert all(each == made[0] for each in made)
    assert len(made[0]) == 5


async def test_any_number_who_give_at_once_give_what_there_is(db: Database) -> None:
    people = await factories.add_users_with(db, 100, 100, 100)

    async def give(each: int) -> None:
        sender, receiver = people[each % 3], people[(each + 1 + each % 2) % 3]
        with suppress(InsufficientCredits):
            await patiently(partial(factories.make, db, transfer(sender, receiver, 30)))

    await asyncio.gather(*(give(each) for each in range(40)))
    async with db.read() as read:
        left = [(await credits.get_balance(read, each)).available for each in people]
    assert sum(left) == 300
    assert min(left) >= 0
    await audited(db)


@pytest.mark.parametrize("values", [{"username": None}, {"role": "queen"}])
async def test_what_the_schema_forbids_is_no_callers_error(
    db: Database, values: dict[str, object]
) -> None:
    await _add_forbidden(db, values)


@differs(Difference.NO_BOUNDS)
async def test_a_text_longer_than_its_column_is_no_callers_error(db: Database) -> None:
    await _add_forbidden(db, {"username": "x" * 51})


async def _add_forbidden(db: Database, values: dict[str, object]) -> None:
    row = factories.new_user()._asdict() | {"email_key": "x", "username_key": "x"} | values
    with pytest.raises(StorageError) as told:
        async with db.transaction() as tx:
            await tx.execute(insert(User).values(row))
    assert type(told.value).__name__ == "Unexpected"
