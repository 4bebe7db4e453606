"""The engine, its pool, and the two ways in."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, make_url, text

from storage import users
from storage.database import Database, PoolConfig, unit
from storage.errors import (
    AlreadyExists,
    Contention,
    DatabaseDown,
    LockTimeout,
    NotFound,
    PoolTimeout,
    StatementTimeout,
    StorageError,
)
from storage.usage import Usage, Wait, usage
from storage.users import Filter, Key, UserRow
from tests import factories
from tests.differences import Difference, differs
from tests.onlookers import (
    checked_out,
    end_connections,
    locked_user,
    looking_on,
    slow_commits,
    until_gone,
    until_idle,
    until_waiting_for_a_lock,
)
from tests.processes import until
from tests.ways import way_into

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy import URL

    from storage.database import Transaction
    from storage.sessions import Session
    from tests import engines
    from tests.conftest import Open

    Nowhere = Callable[[URL], URL]

ONE = text("SELECT 1")
PID = {"postgresql": text("SELECT pg_backend_pid()"), "mysql": text("SELECT connection_id()")}


# A statement that takes longer than anybody waits.
FOR_EVER = {
    "postgresql": text("SELECT pg_sleep(3600)"),
    "mysql": text("SELECT SUM(a.seq * b.seq) FROM seq_1_to_1000000 AS a, seq_1_to_1000000 AS b"),
    "sqlite": text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"
    ),
}


async def for_ever(session: Session) -> None:
    await session.execute(FOR_EVER[session.dialect])


async def pid_of(session: Session) -> int:
    pid: int = (await session.execute(PID[session.dialect])).scalar_one()
    return pid


@asynccontextmanager
async def used() -> AsyncIterator[Usage]:
    """What the block uses of the database."""
    token = usage.set(Usage())
    try:
        yield usage.get()
    finally:
        usage.reset(token)


def at_a_lock(db: Database) -> Wait:
    """What a caller is seen to wait for whose statement waits for a lock."""
    return Wait.LOCK if db.engine.dialect.name == "sqlite" else Wait.STATEMENT


async def count_of(db: Database) -> int:
    async with db.read() as read:
        return await users.count(read, Filter())


async def rename(db: Database, user: UserRow) -> None:
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "Ada"})


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits for its end, which must be that."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# transaction


async def test_a_transaction_takes_effect_when_its_block_ends(db: Database) -> None:
    async with db.transaction() as tx:
        await users.create(tx, factories.new_user())
        await users.create(tx, factories.new_user())
        assert await count_of(db) == 0
    assert await count_of(db) == 2


@pytest.mark.parametrize("error", [ValueError(), NotFound("user", 1), SystemExit()])
async def test_a_transaction_whose_block_raises_has_no_effect(
    db: Database, error: BaseException
) -> None:
    async def fail() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert await count_of(db) == 0


async def test_a_transaction_in_which_a_statement_failed_has_no_effect(db: Database) -> None:
    """Also if its caller carries on, who is told at the latest when it is to be committed."""
    taken = await factories.add_user(db)

    async def carry_on() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            for email in (taken.email, "not taken"):
                with pytest.raises(AlreadyExists):
                    await users.create(tx, factories.new_user(email=email))

    with pytest.raises(AlreadyExists):
        await carry_on()
    assert await count_of(db) == 1


async def test_a_transaction_that_is_cancelled_has_no_effect(db: Database, shared_url: str) -> None:
    async def begin() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            begun.set()
            await for_ever(tx)

    begun = asyncio.Event()
    task = asyncio.ensure_future(begin())
    await begun.wait()
    await end(task)
    await until_idle(shared_url)
    assert await count_of(db) == 0


@differs(Difference.NOTHING_AT_COMMIT)
async def test_a_commit_under_way_is_not_stopped_by_cancellation(
    db: Database, shared_url: str
) -> None:
    async with slow_commits(shared_url):
        adding = asyncio.ensure_future(factories.add_user(db))
        await until_waiting_for_a_lock(shared_url)
        adding.cancel()
        done, _ = await asyncio.wait([adding], timeout=0.1)
        assert not done
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert await count_of(db) == 1
    assert checked_out(db) == 0


@differs(Difference.NOTHING_AT_COMMIT)
@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_a_commit_that_loses_against_another_is_contention(
    db: Database, shared_url: str, sqlstate: str
) -> None:
    async with looking_on(shared_url) as admin:
        await admin.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            f" 'BEGIN RAISE EXCEPTION SQLSTATE ''{sqlstate}''; END'"
        )
        await admin.execute(
            "CREATE CONSTRAINT TRIGGER lost AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION lose()"
        )
        try:
            with pytest.raises(Contention):
                await factories.add_user(db)
        finally:
            await admin.execute("DROP FUNCTION lose CASCADE")
    assert await count_of(db) == 0


# unit


async def begin(tx: Transaction) -> None:
    """Adds a user before anybody else does."""
    await users.create(tx, factories.new_user(username="the first"))


async def add(db: Database, username: str) -> None:
    async with db.transaction() as tx:
        await users.create(tx, factories.new_user(username=username))


async def names(db: Database) -> list[str]:
    async with db.read() as read:
        return list((await read.execute(text("SELECT username FROM users ORDER BY id"))).scalars())


async def test_the_transactions_of_a_unit_are_one_that_commits_when_it_ends(db: Database) -> None:
    async with unit(begin) as whole:
        await add(db, "ada")
        await add(db, "bob")
        assert whole.tx is not None
        await users.create(whole.tx, factories.new_user(username="carl"))
        assert await names(db) == []
    assert await names(db) == ["the first", "ada", "bob", "carl"]
    assert checked_out(db) == 0


@differs(Difference.ONE_WRITER)
async def test_a_unit_is_its_blocks_and_nobody_elses(db: Database) -> None:
    # Names that nobody had before: while one is taken again that MariaDB has not quite forgotten,
    # whoever takes one beside it waits.
    async def begin_unlike_others(tx: Transaction) -> None:
        await users.create(tx, factories.new_user())

    async def elsewhere() -> None:
        await started.wait()
        await add(db, "a stranger")

    started = asyncio.Event()
    other = asyncio.ensure_future(elsewhere())
    async with unit(begin_unlike_others):
        await add(db, "a member")
        started.set()
        await other
        assert await names(db) == ["a stranger"]


@pytest.mark.parametrize("where", ["in a transaction", "between", "at the beginning"])
async def test_a_unit_that_fails_has_no_effect(db: Database, where: str) -> None:
    async def begin_or_fail(tx: Transaction) -> None:
        await begin(tx)
        if where == "at the beginning":
            raise ZeroDivisionError

    async def fail() -> None:
        async with unit(begin_or_fail):
            await add(db, "ada")
            if where == "in a transaction":
                async with db.transaction():
                    raise ZeroDivisionError
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await names(db) == []
    assert checked_out(db) == 0
    await add(db, "bob")
    assert await names(db) == ["bob"]


@pytest.mark.parametrize("then", ["ends", "opens another"])
async def test_a_unit_does_not_outlive_the_failure_of_a_part_of_it(db: Database, then: str) -> None:
    async def fail() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            raise ZeroDivisionError

    async def go_on() -> None:
        async with unit(begin):
            with pytest.raises(ZeroDivisionError):
                await fail()
            if then == "opens another":
                await add(db, "ada")

    with pytest.raises(RuntimeError, match="failed"):
        await go_on()
    assert await names(db) == []


async def test_a_unit_that_is_cancelled_has_no_effect(db: Database, shared_url: str) -> None:
    async def work() -> None:
        async with unit(begin):
            await add(db, "ada")
            added.set()
            await asyncio.get_running_loop().create_future()

    added = asyncio.Event()
    task = asyncio.ensure_future(work())
    await added.wait()
    await end(task)
    await until_idle(shared_url)
    assert await names(db) == []


@differs(Difference.NOTHING_AT_COMMIT)
async def test_the_commit_of_a_unit_is_not_stopped_by_cancellation(
    db: Database, shared_url: str
) -> None:
    async def work() -> None:
        async with unit(begin):
            await add(db, "ada")

    async with slow_commits(shared_url):
        task = asyncio.ensure_future(work())
        await until_waiting_for_a_lock(shared_url)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(db) == ["the first", "ada"]
    assert checked_out(db) == 0


@differs(Difference.NO_SERVER)
async def test_a_unit_begins_on_another_connection_when_its_own_is_dead(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=1, overflow=0)
    await count_of(db)
    await end_connections(shared_url)
    async with unit(begin):
        await add(db, "ada")
    assert await names(db) == ["the first", "ada"]


# read


async def test_the_statements_of_a_read_each_see_what_is_there_by_then(db: Database) -> None:
    async with db.read() as read:
        assert await users.count(read, Filter()) == 0
        await factories.add_user(db)
        assert await users.count(read, Filter()) == 1


async def test_the_statements_of_a_snapshot_agree(db: Database) -> None:
    async with db.read(snapshot=True) as read:
        assert await users.count(read, Filter()) == 0
        await factories.add_user(db)
        assert await users.count(read, Filter()) == 0
    assert await count_of(db) == 1


async def test_a_snapshot_changes_nothing(db: Database) -> None:
    with pytest.raises(StorageError):
        async with db.read(snapshot=True) as read:
            await read.execute(text("DELETE FROM users"))


async def test_a_connection_comes_back_from_each_way_in_as_it_was(opened: Open) -> None:
    db = opened(size=1, overflow=0)
    for _ in range(2):
        await factories.add_user(db)
        async with db.read(snapshot=True) as read:
            await users.count(read, Filter())
        assert await count_of(db) > 0
    assert await count_of(db) == 2


async def test_a_connection_that_lies_open_for_too_long_is_replaced(opened: Open) -> None:
    db = opened(size=1, overflow=0, recycle=0)
    assert await count_of(db) == 0
    made: list[object] = []
    event.listen(db.engine.sync_engine, "connect", lambda *each: made.append(each))
    for loans in range(1, 4):
        assert await count_of(db) == 0
        assert len(made) == loans
    assert checked_out(db) == 0


# connections that died


@differs(Difference.NO_SERVER)
@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_read_that_finds_its_connection_dead_goes_to_another(
    opened: Open, shared_url: str, *, snapshot: bool
) -> None:
    db = opened(size=1, overflow=0)
    await factories.add_user(db)
    await end_connections(shared_url)
    async with db.read(snapshot=snapshot) as read:
        assert await users.count(read, Filter()) == 1
        assert await users.count(read, Filter()) == 1


@differs(Difference.NO_SERVER)
async def test_a_transaction_that_finds_its_connection_dead_goes_to_another(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=1, overflow=0)
    await factories.add_user(db)
    await end_connections(shared_url)
    await factories.add_user(db)
    assert await count_of(db) == 2


@differs(Difference.NO_SERVER)
async def test_when_the_database_was_restarted_nobody_notices(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=4, overflow=0)
    async with db.read() as one, db.read() as two, db.read() as three, db.read() as four:
        pids = {await pid_of(session) for session in (one, two, three, four)}
    assert len(pids) == 4
    await end_connections(shared_url)
    await asyncio.gather(*(factories.add_user(db) for _ in range(4)), *map(count_of, [db] * 4))
    assert await count_of(db) == 4


@differs(Difference.NO_SERVER)
async def test_a_first_statement_whose_connection_ends_under_way_goes_to_another(
    db: Database, shared_url: str
) -> None:
    user = await factories.add_user(db)
    async with locked_user(shared_url, user.id):
        renaming = asyncio.ensure_future(rename(db, user))
        await until_waiting_for_a_lock(shared_url)
        await end_connections(shared_url)
    await renaming
    async with db.read() as read:
        assert (await users.get(read, Key("id", user.id))).full_name == "Ada"


@differs(Difference.NO_SERVER)
@pytest.mark.parametrize("way", ["transaction", "read", "snapshot"])
async def test_a_later_statement_on_a_dead_connection_is_not_repeated(
    opened: Open, shared_url: str, way: str
) -> None:
    db = opened(size=1, overflow=0)

    async def run() -> None:
        async with way_into(db, way) as session:
            await session.execute(ONE)
            await end_connections(shared_url)
            await session.execute(ONE)

    with pytest.raises(DatabaseDown):
        await run()
    assert await count_of(db) == 0


@differs(Difference.NO_SERVER)
async def test_a_statement_after_one_that_found_the_connection_dead_fails_too(
    opened: Open, shared_url: str
) -> None:
    """A second half of a transaction never takes effect, also if its caller carries on."""
    db = opened(size=1, overflow=0)

    async def carry_on() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            await end_connections(shared_url)
            for _ in range(3):
                with pytest.raises(DatabaseDown):
                    await users.create(tx, factories.new_user())

    with pytest.raises(DatabaseDown):
        await carry_on()
    assert await count_of(db) == 0


@differs(Difference.NO_SERVER)
async def test_a_commit_on_a_dead_connection_is_not_taken_for_done(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=1, overflow=0)

    async def lose() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            await end_connections(shared_url)

    with pytest.raises(DatabaseDown):
        await lose()
    assert await count_of(db) == 0


@differs(Difference.NO_SERVER)
@pytest.mark.parametrize("way", ["transaction", "read", "snapshot"])
async def test_what_a_block_raises_is_told_though_its_connection_is_dead_by_then(
    opened: Open, shared_url: str, way: str
) -> None:
    db = opened(size=1, overflow=0)

    async def refuse() -> None:
        async with way_into(db, way) as session:
            await session.execute(ONE)
            await end_connections(shared_url)
            raise NotFound("user", 7)

    with pytest.raises(NotFound):
        await refuse()
    assert await count_of(db) == 0


# time and room


async def test_who_waits_too_long_for_a_connection_is_told_so(opened: Open) -> None:
    db = opened(size=1, overflow=1, wait=0.05)
    async with db.read() as one, db.transaction() as two:
        await one.execute(ONE)
        await two.execute(ONE)
        with pytest.raises(PoolTimeout):
            await count_of(db)
    assert await count_of(db) == 0


@differs(Difference.ONE_WRITER)
async def test_a_transaction_that_waits_too_long_for_a_connection_is_told_so(opened: Open) -> None:
    db = opened(size=1, overflow=0, wait=0.05)
    async with db.transaction() as tx:
        await tx.execute(ONE)
        with pytest.raises(PoolTimeout):
            await factories.add_user(db)
    assert await count_of(db) == 0


async def test_transactions_that_wait_for_each_other_on_one_connection_each_get_it(
    opened: Open,
) -> None:
    db = opened(size=1, overflow=0)
    await asyncio.gather(*(factories.add_user(db) for _ in range(10)))
    assert await count_of(db) == 10


async def test_who_waits_for_a_connection_gets_the_next_that_comes_free(opened: Open) -> None:
    db = opened(size=1, overflow=0)
    async with used() as mine:
        async with db.read():
            waiting = asyncio.ensure_future(count_of(db))
            await until(lambda: mine.waiting_for is Wait.POOL)
        assert await waiting == 0


async def test_a_lock_that_is_not_granted_in_time_is_told_so(opened: Open, shared_url: str) -> None:
    db = opened(lock_timeout=0.05)
    user = await factories.add_user(db)
    async with locked_user(shared_url, user.id):
        with pytest.raises(LockTimeout):
            await rename(db, user)


async def test_a_statement_that_takes_too_long_is_stopped(opened: Open) -> None:
    db = opened(statement_timeout=1.0)
    with pytest.raises(StatementTimeout):
        async with db.read() as read:
            await for_ever(read)
    assert await count_of(db) == 0


@differs(Difference.NO_SERVER)
async def test_a_transaction_that_idles_longer_than_a_statement_may_take_is_ended(
    opened: Open, shared_url: str
) -> None:
    db = opened(statement_timeout=1.0)

    async def idle() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            await until_idle(shared_url)

    with pytest.raises(DatabaseDown):
        await idle()
    assert await count_of(db) == 0


def no_such_port(url: URL) -> URL:
    """A port at which nothing listens, or a folder where the file is to be."""
    if url.get_backend_name() == "sqlite":
        return url.set(database="/")
    return url.set(host="127.0.0.1", port=1, query={})


def no_such_place(url: URL) -> URL:
    """A socket, or a folder, that is not there."""
    if url.get_backend_name() == "sqlite":
        return url.set(database="/nowhere/byline.db")
    name = "unix_socket" if url.get_backend_name() == "mysql" else "host"
    return url.set(query={name: "/nowhere"})


def no_such_database(url: URL) -> URL:
    """A database that the server has not, or a file that is none."""
    return url.set(database=__file__ if url.get_backend_name() == "sqlite" else "nowhere")


def no_such_role(url: URL) -> URL:
    """A role that the server has not, or a path that leads through a file."""
    if url.get_backend_name() == "sqlite":
        return url.set(database=f"{__file__}/byline.db")
    return url.set(username="nobody")


NOWHERE = [no_such_port, no_such_place, no_such_database, no_such_role]


@pytest.mark.parametrize("where", NOWHERE)
async def test_a_database_that_cannot_be_reached_is_down(shared_url: str, where: Nowhere) -> None:
    url = where(make_url(shared_url)).render_as_string(hide_password=False)
    db = Database(url, PoolConfig(connect_timeout=5))
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: count_of(db),
        lambda: factories.add_user(db),
        db.ping,
    ]
    for call in calls:
        with pytest.raises(DatabaseDown):
            await call()
    await db.close()


@differs(Difference.NO_SERVER)
async def test_a_server_that_does_not_answer_is_down(shared_url: str) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = make_url(shared_url).set(host="127.0.0.1", port=port, username="byline", query={})
        db = Database(url.render_as_string(), PoolConfig(connect_timeout=0.05))
        with pytest.raises(DatabaseDown):
            # The driver on its own waits for a minute.
            await asyncio.wait_for(count_of(db), 30)
        await db.close()


# cancellation


async def test_a_caller_who_stops_waiting_for_a_connection_takes_none_along(
    opened: Open,
) -> None:
    db = opened(size=1, overflow=0)
    async with used() as mine, db.read():
        waiting = [asyncio.ensure_future(count_of(db)) for _ in range(5)]
        await until(lambda: mine.waiting_for is Wait.POOL)
        for task in waiting:
            await end(task)
    assert await count_of(db) == 0
    assert checked_out(db) == 0


async def test_whenever_callers_are_cancelled_nothing_is_left_open(
    opened: Open, shared_url: str
) -> None:
    """Each is cancelled one step of the event loop later than the one before."""
    db = opened(size=4, overflow=2)
    user = await factories.add_user(db)

    async def write() -> None:
        async with db.transaction() as tx:
            await users.update(tx, user.id, {"full_name": "Ada"})
            await users.get(tx, Key("id", user.id))

    async def read(*, snapshot: bool) -> None:
        async with db.read(snapshot=snapshot) as session:
            await users.get(session, Key("id", user.id))
            await users.get(session, Key("id", user.id))

    for steps in range(40):
        tasks = [
            asyncio.ensure_future(call)
            for call in (write(), read(snapshot=False), read(snapshot=True), write())
        ]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {asyncio.CancelledError, type(None)}
    assert checked_out(db) == 0
    await until_idle(shared_url)
    assert await count_of(db) == 1


@pytest.mark.parametrize("way", ["transaction", "snapshot", "read"])
async def test_whoever_is_cancelled_while_giving_a_connection_back_has_given_it_back(
    opened: Open, way: str
) -> None:
    db = opened(size=1, overflow=0)

    async def fail(served: asyncio.Event) -> None:
        async with way_into(db, way) as session:
            await session.execute(ONE)
            served.set()
            raise ValueError

    opening: list[object] = []
    event.listen(db.engine.sync_engine, "connect", lambda *made: opening.append(made))
    for steps in range(12):
        served = asyncio.Event()
        failing = asyncio.ensure_future(fail(served))
        await served.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        failing.cancel()
        await asyncio.wait([failing])
        assert checked_out(db) == 0
    assert len(opening) == 1


# close and ping


async def test_closing_leaves_no_connection(opened: Open, shared_url: str) -> None:
    db = opened(size=3)
    async with db.read() as one, db.read() as two:
        await one.execute(ONE)
        await two.execute(ONE)
    await db.ping()
    await db.close()
    await until_gone(shared_url)


async def test_a_connection_on_loan_when_the_pool_closes_goes_on_and_closes_when_it_is_back(
    opened: Open, shared_url: str
) -> None:
    db = opened()
    async with db.transaction() as tx:
        await users.create(tx, factories.new_user())
        await db.close()
        await users.create(tx, factories.new_user())
    await until_idle(shared_url)
    assert await count_of(db) == 2
    await db.close()
    await until_gone(shared_url)


async def test_a_ping_waits_for_no_other_work(opened: Open) -> None:
    db = opened(size=1, overflow=0, wait=0.05)
    async with db.transaction() as tx:
        await tx.execute(ONE)
        await db.ping()
        await db.ping()


@differs(Difference.NO_SERVER)
async def test_a_ping_tells_whether_the_database_is_there_by_then(
    engine: engines.Engine, database_url: str
) -> None:
    db = Database(database_url)
    await db.ping()
    await end_connections(database_url)
    await db.ping()
    async with engine.away(str(make_url(database_url).database)):
        with pytest.raises(DatabaseDown):
            await db.ping()
    await db.ping()
    await db.close()


# usage


async def test_usage_counts_the_statements_and_the_time_of_its_caller(db: Database) -> None:
    await factories.add_user(db)
    async with used() as mine:
        assert mine == Usage(Wait.NOTHING, 0, 0, 0)
        async with db.transaction() as tx:
            await tx.execute(ONE)
        async with db.read() as read:
            await read.execute(ONE)
            await asyncio.gather(factories.add_user(db))
    await count_of(db)
    assert (mine.statements, mine.waiting_for) == (3, Wait.NOTHING)
    assert mine.pool > 0
    assert mine.database > 0


async def test_usage_says_what_its_caller_waits_for(opened: Open, shared_url: str) -> None:
    db = opened(size=1, overflow=0)
    user = await factories.add_user(db)

    async def change() -> None:
        async with db.transaction() as tx:
            await users.update(tx, user.id, {"full_name": "Ada"})
            changed.set()
            await leave.wait()

    changed, leave = asyncio.Event(), asyncio.Event()
    async with used() as mine:
        async with locked_user(shared_url, user.id):
            async with db.read():
                changing = asyncio.ensure_future(change())
                await until(lambda: mine.waiting_for is Wait.POOL)
            await until_waiting_for_a_lock(shared_url)
            waited_for = mine.waiting_for
        assert waited_for is at_a_lock(db)
        await changed.wait()
        waited_for = mine.waiting_for
        assert waited_for is Wait.NOTHING
        leave.set()
        await changing
    # MariaDB returns no row that it changes: it is asked for it afterwards.
    assert mine.statements == (2 if db.engine.dialect.name == "mysql" else 1)


async def test_who_gave_up_waits_for_nothing(opened: Open) -> None:
    db = opened(size=1, overflow=0, wait=0.05, statement_timeout=1.0)
    async with used() as mine:
        async with db.read() as read:
            with pytest.raises(PoolTimeout):
                await count_of(db)
            assert mine.waiting_for is Wait.NOTHING
            with pytest.raises(StatementTimeout):
                await for_ever(read)
        assert mine.waiting_for is Wait.NOTHING


async def test_usage_keeps_what_a_cancelled_caller_waited_for(
    opened: Open, shared_url: str
) -> None:
    db = opened(size=1, overflow=0)
    user = await factories.add_user(db)
    async with locked_user(shared_url, user.id), used() as mine:
        renaming = asyncio.ensure_future(rename(db, user))
        await until_waiting_for_a_lock(shared_url)
        await end(renaming)
    assert mine.waiting_for is at_a_lock(db)
    async with used() as mine, db.read():
        counting = asyncio.ensure_future(count_of(db))
        await until(lambda: mine.waiting_for is Wait.POOL)
        await end(counting)
    assert mine.waiting_for is Wait.POOL
