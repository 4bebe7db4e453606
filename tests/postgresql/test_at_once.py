"""Transactions that are one statement: which are, and that nothing else comes of them."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text

from storage import credits, posts, tags, users
from storage.accounts import MOST
from storage.database import unit
from storage.dialects import postgresql
from storage.dialects.at_once import AtOnce
from storage.errors import DatabaseDown, LockTimeout
from storage.usage import Usage, usage
from tests import factories
from tests.factories import transfer
from tests.onlookers import (
    end_connections,
    locked_user,
    looking_on,
    until_waiting_for_a_lock,
)
from tests.processes import until
from tests.statements import sent_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from storage.credits import Balance
    from storage.database import Database, Transaction
    from storage.users import UserRow
    from tests.conftest import Open
    from tests.onlookers import Onlooker

ONE = text("SELECT 1")
TAGS = ("maths", "Notes")
ALL = ("Logic", *TAGS)
# Longer than any test takes.
FOR_EVER = AtOnce(select(func.pg_sleep(60), text(":lock_timeout")))

SLEEPERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep'
"""


def is_among(tag: str, names: Iterable[str]) -> bool:
    return tags.key_of(tag) in map(tags.key_of, names)


async def balances(db: Database, users: Iterable[int]) -> list[Balance]:
    async with db.read() as read:
        return [await credits.get_balance(read, each) for each in users]


@asynccontextmanager
async def held_up(url: str) -> AsyncIterator[Onlooker]:
    """Has whoever reads whether a user is active wait for the end of the block."""
    async with looking_on(url) as onlooker:
        await onlooker.execute("ALTER TABLE users RENAME TO all_users")
        await onlooker.execute(
            "CREATE VIEW users AS SELECT id, is_active"
            " AND pg_advisory_xact_lock_shared(1) IS NOT NULL AS is_active FROM all_users"
        )
        try:
            async with onlooker.holding_up():
                yield onlooker
        finally:
            await onlooker.execute("DROP VIEW users")
            await onlooker.execute("ALTER TABLE all_users RENAME TO users")


async def test_a_post_whose_tags_are_there_takes_one_statement(db: Database) -> None:
    author = await factories.add_user(db)
    await factories.add_post(db, author_id=author.id, tags=TAGS)
    async with sent_by(db) as sent:
        await factories.add_post(db, author_id=author.id, tags=TAGS)
        await factories.add_post(db, author_id=author.id)
    assert (len(sent.statements), sent.frames) == (2, [])


async def test_a_transfer_between_users_who_hold_nothing_takes_one_statement(
    db: Database,
) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    async with sent_by(db) as sent:
        await factories.make(db, transfer(ada, bob, 5))
    assert (len(sent.statements), sent.frames) == (1, [])
    made, other = await balances(db, [ada, bob])
    assert (made.available, other.available) == (0, 5)
    assert made.updated_at == other.updated_at


async def test_a_change_of_a_user_takes_one_statement_and_waits_as_long_as_the_caller(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=1, overflow=0, lock_timeout=0)
    user = await factories.add_user(db)

    async def rename(name: str) -> UserRow:
        async with db.transaction(single=True) as tx:
            return await users.update(tx, user.id, {"full_name": name})

    async with sent_by(db) as sent:
        assert (await rename("Ada")).full_name == "Ada"
    assert (len(sent.statements), sent.frames) == (1, [])
    async with locked_user(shared_url, user.id):
        token = usage.set(Usage(deadline=time.monotonic() + 0.3))
        with pytest.raises(LockTimeout):
            await rename("Bob")
        usage.reset(token)


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize(
    "names", [(), TAGS, ("MATHS ", "notes"), ("Notes", "maths", "NOTES"), ("maths", "Logic")]
)
async def test_a_post_reads_as_it_was_answered(
    db: Database, names: Sequence[str], *, published: bool
) -> None:
    author = await factories.add_user(db)
    await factories.add_post(db, author_id=author.id, tags=TAGS)
    post = await factories.add_post(db, author_id=author.id, tags=names, published=published)
    assert post.author == author
    assert [tag.name for tag in post.tags] == [each for each in ALL if is_among(each, names)]
    assert (post.published, post.published_at) == (
        published,
        post.created_at if published else None,
    )
    async with db.read() as read:
        assert await posts.get(read, post.id) == post


async def test_it_is_a_part_of_the_transaction_that_it_comes_in(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)

    async def begin(tx: Transaction) -> None:
        await tx.execute(ONE)

    async def in_a_unit() -> None:
        async with unit(begin):
            await factories.make(db, transfer(ada, bob, 5))
            raise ZeroDivisionError

    async def among_others() -> None:
        async with db.transaction() as tx:
            await credits.make(tx, transfer(ada, bob, 3))
            await credits.make(tx, transfer(ada, bob, 2))
            raise ZeroDivisionError

    for way in (in_a_unit, among_others):
        with pytest.raises(ZeroDivisionError):
            await way()
        assert [each.available for each in await balances(db, [ada, bob])] == [5, 0]


async def test_nothing_can_follow_what_was_said_to_be_all(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)

    async def twice() -> None:
        async with db.transaction(single=True) as tx:
            await credits.make(tx, transfer(ada, bob, 1))
            await credits.make(tx, transfer(ada, bob, 1))

    with pytest.raises(RuntimeError, match="one call of storage"):
        await twice()
    assert [each.available for each in await balances(db, [ada, bob])] == [4, 1]


async def test_accounts_that_somebody_has_are_waited_for(db: Database, shared_url: str) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    async with looking_on(shared_url) as onlooker, onlooker.transaction("commit"):
        await onlooker.lock("credit_accounts", user_id=bob)
        waiting = asyncio.ensure_future(factories.make(db, transfer(ada, bob, 5)))
        await until_waiting_for_a_lock(shared_url)
        took = "UPDATE credit_accounts SET available = :more WHERE user_id = :bob"
        await onlooker.execute(took, more=1, bob=bob)
    await waiting
    assert [each.available for each in await balances(db, [ada, bob])] == [0, 6]


async def test_accounts_that_change_before_they_are_locked_are_given_from_as_they_are(
    db: Database, shared_url: str
) -> None:
    ada, bob = await factories.add_users_with(db, 0, MOST)
    async with sent_by(db) as sent:
        async with held_up(shared_url) as onlooker:
            waiting = asyncio.ensure_future(factories.make(db, transfer(ada, bob, 5)))
            await until_waiting_for_a_lock(shared_url)
            # When its statement began, the one had too little and the other no room.
            have = "UPDATE credit_accounts SET available = :available WHERE user_id = :user_id"
            await onlooker.execute(have, available=7, user_id=ada)
            await onlooker.execute(have, available=1, user_id=bob)
        await waiting
    assert sent.frames == []
    assert [each.available for each in await balances(db, [ada, bob])] == [2, 6]


async def test_within_a_transaction_accounts_are_locked_in_order_all_the_same(
    db: Database, shared_url: str
) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)

    async def give() -> None:
        async with db.transaction() as tx:
            await tx.execute(ONE)
            await credits.make(tx, transfer(ada, bob, 5))

    async with looking_on(shared_url) as one, looking_on(shared_url) as other:
        async with one.transaction():
            await one.lock("credit_accounts", user_id=ada)
            giving = asyncio.ensure_future(give())
            await until_waiting_for_a_lock(shared_url)
            # Who waits for the first has not taken the second.
            taken = "SELECT user_id FROM credit_accounts WHERE user_id = :bob FOR UPDATE NOWAIT"
            await other.execute(taken, bob=bob)
        await giving


async def test_a_lock_that_it_cannot_pass_over_is_waited_for_as_long_as_the_caller_waits(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=1, overflow=0, lock_timeout=0)
    author = await factories.add_user(db)
    await factories.add_post(db, author_id=author.id)
    # Of how many posts the author has, which a trigger counts.
    async with looking_on(shared_url) as onlooker, onlooker.transaction():
        await onlooker.lock("user_post_counts", user_id=author.id)
        token = usage.set(Usage(deadline=time.monotonic() + 0.3))
        with pytest.raises(LockTimeout):
            await factories.add_post(db, author_id=author.id)
        usage.reset(token)
    async with sent_by(db) as sent:
        await factories.add_post(db, author_id=author.id)
    assert sent.frames == []


async def test_a_connection_that_is_dead_is_found_out_before(db: Database, shared_url: str) -> None:
    ada, bob = await factories.add_users_with(db, 9, 0)
    for _ in range(3):
        await factories.make(db, transfer(ada, bob, 1))
        await end_connections(shared_url)
        await factories.make(db, transfer(ada, bob, 1))
        await factories.make(db, transfer(ada, bob, 1))
    assert [each.available for each in await balances(db, [ada, bob])] == [0, 9]


async def test_a_connection_that_has_not_answered_of_late_is_asked_first(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await factories.add_users_with(db, 9, 0)
    monkeypatch.setattr(postgresql, "LATE", 0.0)
    async with sent_by(db) as sent:
        await factories.make(db, transfer(ada, bob, 1))
    assert [frame[:5] for frame in sent.frames] == ["BEGIN", "COMMI"]


async def test_what_may_have_been_done_is_not_done_again(db: Database, shared_url: str) -> None:
    await factories.add_users(db, 1)

    async def sleep() -> None:
        async with db.transaction(single=True) as tx:
            await FOR_EVER.execute(tx, {})

    sleeping = asyncio.ensure_future(sleep())
    async with looking_on(shared_url) as onlooker:

        async def sleeps() -> bool:
            return bool(await onlooker.value(SLEEPERS))

        await until(sleeps)
    await end_connections(shared_url)
    with pytest.raises(DatabaseDown):
        await sleeping
