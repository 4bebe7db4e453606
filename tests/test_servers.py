"""Each PostgreSQL that Byline is said to work on, and PgBouncer, which shares few connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from byline.v1 import posts_pb2, users_pb2
from sqlalchemy import text

import migrations
from migrations import State
from storage import credits, keyset, poolers, posts, users
from storage.database import Database, PoolConfig
from storage.errors import AlreadyExists, DatabaseDown, LockTimeout, StatementTimeout
from storage.posts import Filter
from storage.users import Key
from tests import factories, servers
from tests.clients import refusal_of
from tests.ledgers import balances, outcome_of
from tests.onlookers import end_connections, locked_user
from tests.paging import listed
from tests.processes import BYLINE, Running, until
from tests.roundtrips import counted
from tests.sessions import BYLINES, EMPTY_LEDGER, connected
from tests.statements import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.conftest import Serve

    Open = Callable[..., Database]

FOR_EVER = text("SELECT pg_sleep(3600)")
PID = text("SELECT pg_backend_pid()")
# More than the pooler lends connections.
CLIENTS = 4 * servers.LENT
# What a connection would keep of a client that was told, or had prepared, anything on it.
LEFT = text("""
    SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
        current_setting('jit'), (SELECT count(*) FROM pg_prepared_statements)
""")
HELD = """
    SELECT count(*) FROM pg_locks, pg_database
    WHERE locktype = 'advisory' AND granted AND database = pg_database.oid
        AND datname = current_database()
"""


@pytest.fixture(scope="module", params=servers.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    servers.require(name)
    return name


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server's migrated database."""
    with servers.running(kind, tmp_path_factory.mktemp(kind)) as url:
        migrations.up(url)
        yield url


@pytest.fixture
async def url(server: str) -> str:
    """The URL of a database without rows."""
    async with connected(server) as admin:
        await admin.execute(EMPTY_LEDGER)
        await admin.execute("TRUNCATE users, tags, requests CASCADE")
    return server


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Open]:
    """Opens the database with a pool as the test wants it."""
    made: list[Database] = []

    def open_(**config: Any) -> Database:  # noqa: ANN401 - any field of PoolConfig
        made.append(Database(url, PoolConfig(**config)))
        return made[-1]

    yield open_
    for database in made:
        await database.close()


@pytest.fixture
def db(opened: Open) -> Database:
    return opened(size=CLIENTS, overflow=0)


async def version_of(url: str) -> str:
    async with connected(url) as admin:
        return str(await admin.fetchval("SHOW server_version"))


async def setting_of(db: Database, name: str, way: str) -> str:
    """What a session of a kind has for a setting."""
    show = text(f"SHOW {name}")
    if way == "transaction":
        async with db.transaction() as tx:
            return str((await tx.execute(show)).scalar_one())
    async with db.read(snapshot=way == "snapshot") as read:
        return str((await read.execute(show)).scalar_one())


# the server


async def test_the_server_is_the_one_that_was_asked_for(kind: str, url: str) -> None:
    expected = "18" if kind == "pgbouncer" else kind.removeprefix("postgresql-")
    assert (await version_of(url)).startswith(expected)
    assert ("port=6432" in url) == (kind == "pgbouncer")


async def test_the_schema_goes_down_and_up_and_is_what_the_models_describe(url: str) -> None:
    run_ = asyncio.to_thread
    await run_(migrations.down, url, "base")
    assert (await run_(migrations.status, url)).current is None
    await run_(migrations.up, url)
    await run_(migrations.check, url)
    assert (await run_(migrations.status, url)).state is State.CURRENT
    async with connected(url) as admin:
        assert await admin.fetchval(HELD) == 0


async def test_migrators_that_meet_take_turns(url: str) -> None:
    await asyncio.to_thread(migrations.down, url, "base")
    command = (*BYLINE, "migrate", "up", "--database-url", url)
    migrators = [Running(*command) for _ in range(3)]
    assert [(await migrator.ended())[0] for migrator in migrators] == [0, 0, 0]
    await asyncio.to_thread(migrations.check, url)
    async with connected(url) as admin:
        assert await admin.fetchval(HELD) == 0


async def test_a_step_does_not_wait_for_a_table_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", 0.1)
    async with connected(url) as other, other.transaction():
        await other.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(migrations.MigrationError, match="lock timeout"):
            await asyncio.to_thread(migrations.down, url)


# what a caller has


def asked(query: str) -> posts_pb2.ListPostsRequest:
    return posts_pb2.ListPostsRequest(filter=posts_pb2.PostFilter(query=query))


async def test_a_caller_finds_what_they_wrote(serve: Serve, url: str) -> None:
    async with serve(url) as client:
        ada = await factories.create_user(client, username="Ada")
        request = factories.create_user_request(username="ADA")
        refused = await refusal_of(client.users.CreateUser(request))
        assert refused.code is grpc.StatusCode.ALREADY_EXISTS
        post = await factories.create_post(client, author_id=ada.id, title="100% Über_uns")
        await client.posts.AddPostTags(
            posts_pb2.AddPostTagsRequest(post_id=post.id, tags=["new", "Old"])
        )
        for query in ("100%", "über", "R_U"):
            found = await client.posts.ListPosts(asked(query))
            assert [each.id for each in found.posts] == [post.id]
        found = await client.posts.ListPosts(asked("0_ü"))
        assert not found.posts
        user = await client.users.GetUser(
            users_pb2.GetUserRequest(id=ada.id, view=users_pb2.USER_VIEW_FULL)
        )
        assert user.user.username == "Ada"


async def test_a_call_that_is_sent_again_has_one_effect(serve: Serve, url: str) -> None:
    request = factories.create_user_request(request_id=str(uuid4()))
    async with serve(url) as client:
        answers = await asyncio.gather(*(client.users.CreateUser(request) for _ in range(CLIENTS)))
        assert len({answer.user.id for answer in answers}) == 1
        count = await client.users.CountUsers(users_pb2.CountUsersRequest())
        assert count.count == 1


async def test_a_list_has_every_row_once_in_order(db: Database) -> None:
    author = await factories.add_user(db)
    made = await factories.add_many_posts(db, author.id, 50)
    async with db.read() as read:

        async def fetch(window: keyset.Window) -> keyset.Page[posts.PostRow]:
            return await posts.list_page(read, Filter(), window)

        rows = await listed(fetch, keyset.Order("created_at", descending=True), limit=7)
    assert [row.id for row in rows] == made[::-1]


# many at once


async def test_transfers_that_cross_neither_make_nor_lose_credits(db: Database) -> None:
    ids = await factories.add_users_with(db, 100, 100, 100, 100)

    async def transfer(number: int) -> None:
        sender, receiver = ids[number % 4], ids[(number * 3 + 1) % 4]
        if sender != receiver:
            operation = factories.transfer(sender, receiver, number % 7 + 1)
            async with db.transaction() as tx:
                await credits.make(tx, operation)

    await asyncio.gather(*(outcome_of(transfer(number)) for number in range(100)))
    assert sum(available for available, _ in await balances(db, *ids)) == 400


async def test_more_clients_than_connections_each_get_their_own_answers(
    db: Database, kind: str
) -> None:
    made = await factories.add_users(db, CLIENTS)
    pids: set[int] = set()

    async def ask(user: users.UserRow) -> None:
        for _ in range(10):
            async with db.read() as read:
                assert (await users.get(read, Key("id", user.id))).email == user.email
                pids.add((await read.execute(PID)).scalar_one())
                assert (await users.get(read, Key("email", user.email))).id == user.id
            async with db.transaction() as tx:
                await users.update(tx, user.id, {"full_name": str(user.id)})
                assert (await users.get(tx, Key("id", user.id))).full_name == str(user.id)

    await asyncio.gather(*map(ask, made))
    if kind == "pgbouncer":
        assert len(pids) <= servers.LENT
    else:
        assert len(pids) > servers.LENT


async def test_a_unique_value_goes_to_one_of_many(db: Database) -> None:
    adding = (factories.add_user(db, username=name) for name in ["ada", "ADA", "Ada"] * 4)
    outcomes = await asyncio.gather(*map(outcome_of, adding))
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == len(outcomes) - 1


# time


@pytest.mark.parametrize("way", ["transaction", "snapshot"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statement_timeout", "90500ms"),
        ("lock_timeout", "80500ms"),
        ("idle_in_transaction_session_timeout", "90500ms"),
        ("application_name", "byline"),
        ("timezone", "UTC"),
        ("jit", "off"),
    ],
)
async def test_every_transaction_is_told_the_same(
    opened: Open, way: str, setting: str, value: str
) -> None:
    db = opened(statement_timeout=90.5, lock_timeout=80.5)
    assert await setting_of(db, setting, way) == value


@pytest.mark.parametrize("way", ["read", "snapshot", "transaction"])
async def test_a_statement_that_takes_too_long_is_stopped(opened: Open, url: str, way: str) -> None:
    db = opened(statement_timeout=1.0)

    async def sleep() -> None:
        if way == "transaction":
            async with db.transaction() as tx:
                await tx.execute(FOR_EVER)
        async with db.read(snapshot=way == "snapshot") as read:
            await read.execute(FOR_EVER)

    with pytest.raises(StatementTimeout):
        await sleep()
    await until_none_sleeps(url)
    async with db.read() as read:
        assert await users.count(read, users.Filter()) == 0


async def test_a_statement_that_has_not_begun_in_time_is_stopped(opened: Open, url: str) -> None:
    """A table that is locked holds up even what describes a statement."""
    db = opened(statement_timeout=1.0)
    async with connected(url) as other, other.transaction():
        await other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StatementTimeout):
            async with db.read() as read:
                await users.count(read, users.Filter())


async def test_a_lock_that_is_not_granted_in_time_is_told_so(opened: Open, url: str) -> None:
    db = opened(lock_timeout=0.05)
    user = await factories.add_user(db)
    async with locked_user(url, user.id):
        with pytest.raises(LockTimeout):
            async with db.transaction() as tx:
                await users.update(tx, user.id, {"full_name": "Ada"})


async def test_a_transaction_that_idles_is_ended(opened: Open, url: str) -> None:
    db = opened(statement_timeout=1.0)

    async def idle() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            await until_no_byline_is(url, "xact_start IS NOT NULL")

    with pytest.raises(DatabaseDown):
        await idle()
    async with db.read() as read:
        assert await users.count(read, users.Filter()) == 0


@pytest.mark.parametrize("way", ["read", "transaction"])
async def test_a_caller_who_leaves_stops_their_statement(db: Database, url: str, way: str) -> None:
    async def sleep() -> None:
        async with db.read() if way == "read" else db.transaction() as session:
            await session.execute(FOR_EVER)

    task = asyncio.ensure_future(sleep())
    async with connected(url) as admin:

        async def sleeps() -> bool:
            return bool(await admin.fetchval(f"{BYLINES} AND wait_event = 'PgSleep'"))

        await until(sleeps)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_none_sleeps(url)
    await factories.add_user(db)


async def test_nobody_notices_that_the_connections_ended(db: Database, url: str) -> None:
    await asyncio.gather(*(factories.add_user(db) for _ in range(CLIENTS)))
    await end_connections(url)
    await asyncio.gather(*(factories.add_user(db) for _ in range(CLIENTS)))
    async with db.read() as read:
        assert await users.count(read, users.Filter()) == 2 * CLIENTS


async def until_no_byline_is(url: str, state: str) -> None:
    async with connected(url) as admin:

        async def holds() -> bool:
            return not await admin.fetchval(f"{BYLINES} AND {state}")

        await until(holds)


async def until_none_sleeps(url: str) -> None:
    await until_no_byline_is(url, "wait_event = 'PgSleep'")


# who answers


async def test_statements_stay_prepared_where_no_pooler_is(opened: Open, kind: str) -> None:
    db = opened(size=1, overflow=0)
    async with db.read() as read:
        for _ in range(3):
            await users.count(read, users.Filter())
    kept = (await run(db, "SELECT count(*) FROM pg_prepared_statements")).scalar_one()
    async with db.engine.connect() as connection:
        pooled = poolers.is_pooled(await connection.get_raw_connection())
    assert (pooled, kept == 0) == ((True, True) if kind == "pgbouncer" else (False, False))


async def test_a_read_is_one_round_trip_and_a_transaction_has_two_more(
    url: str, tmp_path: Path
) -> None:
    async with counted(url, tmp_path) as count:
        db = Database(count.url, PoolConfig(size=1, overflow=0))

        async def read() -> None:
            async with db.read() as session:
                await users.count(session, users.Filter())

        async def write() -> None:
            async with db.transaction() as tx:
                await users.count(tx, users.Filter())

        # What a connection's first statements cost is another matter.
        for call, round_trips in ((read, None), (read, 1), (write, 3)):
            before = count.round_trips
            await call()
            assert round_trips in (None, count.round_trips - before)
        await db.close()


@pytest.fixture(scope="module")
def pooled_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a migrated database behind a pooler."""
    servers.require("pgbouncer")
    with servers.running("pgbouncer", tmp_path_factory.mktemp("pooled")) as url:
        migrations.up(url)
        yield url


async def test_nothing_of_a_client_stays_on_the_connections_that_the_next_is_lent(
    pooled_url: str,
) -> None:
    db = Database(pooled_url, PoolConfig(size=CLIENTS, statement_timeout=1.5, lock_timeout=2.5))
    await asyncio.gather(*(factories.add_user(db) for _ in range(CLIENTS)))
    await asyncio.to_thread(migrations.down, pooled_url, "-1")
    await asyncio.to_thread(migrations.up, pooled_url)

    async def look() -> tuple[Any, ...]:
        async with db.read() as read:
            await asyncio.sleep(0)
            return tuple((await read.execute(LEFT)).one())

    found = await asyncio.gather(*(look() for _ in range(CLIENTS)))
    assert set(found) == {("0", "0", "on", 0)}
    await db.close()


async def test_a_pooler_that_was_told_to_ignore_settings_is_seen_all_the_same(
    pooled_url: str, tmp_path: Path
) -> None:
    ignored = "statement_timeout, lock_timeout, idle_in_transaction_session_timeout, jit"
    ignoring = f"ignore_startup_parameters = {ignored}"
    direct = servers.past_the_pooler(pooled_url)
    with servers.pooled(direct, tmp_path, ignoring, port=6433) as url:
        db = Database(url, PoolConfig(statement_timeout=1.5))
        assert await setting_of(db, "statement_timeout", "transaction") == "1500ms"
        await db.close()


@pytest.mark.parametrize(
    ("required", "outcome"),
    [("", pytest.skip.Exception), ("pgbouncer,postgresql-0", pytest.fail.Exception)],
)
def test_a_server_that_is_missing_is_skipped_unless_it_is_required(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setitem(servers.KINDS, "postgresql-0", "wait for it")
    monkeypatch.setenv("BYLINE_TEST_REQUIRE", required)
    with pytest.raises(outcome, match="no postgresql-0 on this machine: wait for it"):
        servers.require("postgresql-0")
