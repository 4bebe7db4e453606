"""The schema's history, run for real."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

import migrations
from migrations import MigrationError, State
from storage.database import Database
from storage.dialects.migrating import LOCK as MIGRATION_LOCK
from tests import factories
from tests.processes import BYLINE, Running, until
from tests.sessions import connected, execute, fetch, migrators_of

if TYPE_CHECKING:
    from collections.abc import Callable

# The functions of `migrations` start an event loop of their own: tests run them in a thread.
run = asyncio.to_thread

TABLES = """
    SELECT coalesce(string_agg(tablename, ' ' ORDER BY tablename), '')
    FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""


FUNCTIONS = """
    SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    AND proname LIKE 'byline%'
"""
WAITING_FOR_USERS = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted)
"""
COUNTS = "SELECT array_agg(post_count ORDER BY user_id) FROM user_post_counts"

BALANCES = "SELECT array_agg(available ORDER BY user_id) FROM credit_accounts"


async def tables(url: str) -> object:
    return await run(fetch, url, TABLES)


async def test_up_makes_the_schema_that_the_models_describe(empty_url: str) -> None:
    await run(migrations.up, empty_url)
    await run(migrations.check, empty_url)
    assert (await run(migrations.status, empty_url)).state is State.CURRENT


async def test_a_model_that_no_migration_made_is_found(database_url: str) -> None:
    await run(execute, database_url, "ALTER TABLE users DROP COLUMN full_name")
    with pytest.raises(MigrationError, match="full_name"):
        await run(migrations.check, database_url)


async def test_up_leaves_what_is_there_alone(database_url: str) -> None:
    db = Database(database_url)
    made = await factories.add_user(db)
    await db.close()
    await run(migrations.up, database_url)
    assert await run(fetch, database_url, "SELECT id FROM users") == made.id


async def test_down_and_up_again_with_rows_in_the_tables(database_url: str) -> None:
    db = Database(database_url)
    post = await factories.add_post(db, tags=["x"])
    await factories.add_profile(db, post.author_id)
    ada, bob = await factories.add_users_with(db, 5, 0)
    await factories.make(db, factories.hold(ada, bob, 5))
    await db.close()
    full = await tables(database_url)
    await run(migrations.down, database_url, "base")
    assert await tables(database_url) == ""
    await run(migrations.up, database_url)
    assert await tables(database_url) == full
    await run(migrations.check, database_url)


async def test_users_from_before_there_were_posts_are_counted_too(database_url: str) -> None:
    await run(migrations.down, database_url, "0001")
    db = Database(database_url)
    before, _ = await factories.add_users(db, 2)
    async with connected(database_url) as other:
        adding = other.transaction()
        await adding.start()
        await other.execute(
            "INSERT INTO users (email, email_key, username, username_key, password_hash)"
            " VALUES ('x', 'x', 'x', 'x', '')"
        )
        migrating = asyncio.create_task(run(migrations.up, database_url))
        await until(partial(other.fetchval, WAITING_FOR_USERS))
        await adding.commit()
        await migrating
    assert await run(fetch, database_url, COUNTS) == [0, 0, 0]
    await factories.add_post(db, author_id=before.id)
    await factories.add_user(db)
    await db.close()
    assert await run(fetch, database_url, COUNTS) == [1, 0, 0, 0]


async def test_users_outlive_the_posts_that_a_step_down_drops(database_url: str) -> None:
    db = Database(database_url)
    await factories.add_post(db, tags=["x"])
    await run(migrations.down, database_url, "0001")
    assert await tables(database_url) == "profiles users"
    assert await run(fetch, database_url, FUNCTIONS) == 0
    await factories.add_user(db)
    await run(migrations.up, database_url)
    await db.close()
    assert await run(fetch, database_url, COUNTS) == [0, 0]


async def test_users_from_before_there_were_credits_have_accounts_too(database_url: str) -> None:
    await run(migrations.down, database_url, "0002")
    db = Database(database_url)
    before, _ = await factories.add_users(db, 2)
    await run(migrations.up, database_url)
    await factories.add_user(db)
    await factories.make(db, factories.grant(before.id, 5))
    await db.close()
    assert await run(fetch, database_url, BALANCES) == [5, 0, 0]


async def test_each_step_down_is_one_that_up_takes_back(database_url: str) -> None:
    head = (await run(migrations.status, database_url)).head
    while (await run(migrations.status, database_url)).current is not None:
        await run(migrations.down, database_url)
    assert len((await run(migrations.status, database_url)).pending) >= 1
    await run(migrations.up, database_url)
    assert (await run(migrations.status, database_url)).current == head


async def test_an_empty_database_is_behind_by_all_revisions(empty_url: str) -> None:
    status = await run(migrations.status, empty_url)
    assert (status.state, status.current) == (State.BEHIND, None)
    assert status.pending[0][0] == "0001"
    assert status.pending[-1][0] == status.head


@pytest.mark.parametrize(
    ("steps", "state"), [(1, State.NEXT), (2, State.AHEAD)], ids=["one step", "two steps"]
)
async def test_how_far_ahead_a_database_is_the_number_of_its_revision_tells(
    database_url: str, steps: int, state: State
) -> None:
    head = (await run(migrations.status, database_url)).head
    later = f"{int(head) + steps:04}"
    async with connected(database_url) as other:
        await other.execute("UPDATE alembic_version SET version_num = $1", later)
    status = await run(migrations.status, database_url)
    assert (status.state, status.current, status.pending) == (state, later, ())


async def test_revisions_are_numbered_one_by_one(empty_url: str) -> None:
    pending = (await run(migrations.status, empty_url)).pending
    assert [name for name, _ in pending] == [f"{n:04}" for n in range(1, len(pending) + 1)]


async def test_the_sql_that_is_printed_makes_the_same_schema(empty_url: str) -> None:
    await run(execute, empty_url, await run(migrations.sql, empty_url))
    await run(migrations.check, empty_url)


@pytest.mark.parametrize("steps", [1, 2, 4])
async def test_steps_down_are_counted_from_where_the_schema_stands(
    database_url: str, steps: int
) -> None:
    head = (await run(migrations.status, database_url)).head
    await run(migrations.down, database_url, f"-{steps}")
    status = await run(migrations.status, database_url)
    assert len(status.pending) == steps
    await run(migrations.up, database_url, f"+{steps}")
    assert (await run(migrations.status, database_url)).current == head


async def test_more_steps_than_there_are_are_refused(database_url: str) -> None:
    with pytest.raises(MigrationError, match="there is no -99"):
        await run(migrations.down, database_url, "-99")


async def test_a_migrator_waits_for_the_one_before_it(empty_url: str) -> None:
    async with connected(empty_url) as other:
        await other.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        migrators = [
            Running(*BYLINE, "migrate", "up", "--database-url", empty_url) for _ in range(2)
        ]

        async def both_wait() -> bool:
            return await migrators_of(other) == len(migrators)

        await until(both_wait)
        assert await tables(empty_url) == ""
        await other.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)
        assert [(await migrator.ended())[0] for migrator in migrators] == [0, 0]
    await run(migrations.check, empty_url)


@pytest.mark.parametrize("change", [migrations.up, migrations.down], ids=["up", "down"])
async def test_a_locked_table_ends_the_migration_and_leaves_the_schema(
    database_url: str, change: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", 0.1)
    monkeypatch.setattr(migrations, "LOCK_PAUSE", 0)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    if change is migrations.up:
        await run(migrations.down, database_url)
    before = await run(migrations.status, database_url)
    async with connected(database_url) as other, other.transaction():
        await other.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(MigrationError, match="lock timeout"):
            await run(change, database_url)
    assert await run(migrations.status, database_url) == before


async def test_an_unreachable_database_is_said_to_be_so() -> None:
    with pytest.raises(MigrationError, match="cannot be reached"):
        await run(migrations.status, "postgresql+asyncpg://byline@127.0.0.1:1/byline")


async def test_an_unknown_revision_is_refused(database_url: str) -> None:
    with pytest.raises(MigrationError, match="nonsense"):
        await run(migrations.up, database_url, "nonsense")
