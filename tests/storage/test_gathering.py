"""Transfers that come at once: who goes with whom, and what each of them is told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import event, select

from storage import audit, credits, requests
from storage.database import Database, PoolConfig, unit
from storage.errors import (
    Contention,
    DatabaseDown,
    InsufficientCredits,
    LockTimeout,
    NotFound,
    StorageError,
)
from storage.gathering import MOST, Together
from storage.models import CreditAccount
from storage.requests import AlreadyAnswered, Claim, Key, claim_of_call
from tests import factories
from tests.differences import Difference, differs
from tests.factories import transfer
from tests.onlookers import end_connections, in_turn, looking_on, until_waiting_for_a_lock
from tests.processes import until
from tests.statements import noting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from storage.credits import Operation
    from storage.dialects.postgresql import Connection
    from storage.transfers import TransferRow


@pytest.fixture
async def together(db: Database) -> AsyncIterator[Together]:
    """Where transfers meet."""
    gathering = Together(db)
    yield gathering
    await gathering.close()


@asynccontextmanager
async def locked_account(url: str, user_id: int) -> AsyncIterator[None]:
    """Keeps others from an account while the block lasts."""
    async with looking_on(url) as onlooker, onlooker.transaction():
        await onlooker.lock("credit_accounts", user_id=user_id)
        yield


def answer_of(row: TransferRow) -> bytes:
    return f"{row.from_user_id} gave {row.to_user_id} {row.amount}".encode()


def begin(
    together: Together, operation: Operation, request_id: int | None = None
) -> asyncio.Task[TransferRow]:
    """Sends a transfer as a call would, with a request id or without."""

    async def call() -> TransferRow:
        if request_id is None:
            return await together.make(operation, answer_of)
        claim = Claim(key_of(request_id), {"amount": str(operation.amount)})
        async with unit(partial(requests.claim, wanted=claim)) as work:
            claim_of_call.set(claim)
            row = await together.make(operation, answer_of)
            if work.tx is not None:
                await requests.keep(work.tx, claim.key, answer_of(row))
            return row

    return asyncio.create_task(call())


def key_of(request_id: int) -> Key:
    return Key("", "/transfer", UUID(int=request_id))


async def all_of(tasks: Iterable[asyncio.Task[TransferRow]]) -> list[TransferRow | BaseException]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def balances(db: Database, users: Iterable[int]) -> list[int]:
    async with db.read() as read:
        return [(await credits.get_balance(read, each)).available for each in users]


@pytest.fixture
async def transactions(db: Database) -> AsyncIterator[list[int]]:
    """How many transfers each transaction made that made any, in the order of their commits."""
    made: list[int] = []

    counted = "SELECT count(*) FROM ledger WHERE kind = 'transfer'"

    def note(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        add(connection.exec_driver_sql(counted).scalar_one())

    async def note_at_driver(connection: Connection, query: str, _: object) -> None:
        if query.startswith("COMMIT"):
            add(await connection.fetchval(counted))

    def add(total: int) -> None:
        if more := total - sum(made):
            made.append(more)

    event.listen(db.engine.sync_engine, "commit", note)
    with noting(note_at_driver):
        yield made
    event.remove(db.engine.sync_engine, "commit", note)


async def test_those_who_come_while_a_transaction_is_under_way_share_the_next(
    db: Database, shared_url: str, together: Together, transactions: list[int]
) -> None:
    hot, *others = await factories.add_users_with(db, *[100] * 12)
    async with locked_account(shared_url, hot):
        first = begin(together, transfer(others[0], hot, 1))
        await until_waiting_for_a_lock(shared_url)
        more = [begin(together, transfer(each, hot, 2)) for each in others]
        more += [begin(together, transfer(hot, each, 1)) for each in others]
        # All of them are in line, and none has a connection.
        await asyncio.sleep(0)
        assert db.engine.pool.checkedout() == 1  # type: ignore[attr-defined] # of the queueing pool
    rows = [await first, *await asyncio.gather(*more)]
    assert transactions == [1, 22]
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert await balances(db, [hot, *others]) == [100 + 1 + 22 - 11, 98, *[99] * 10]
    async with db.read(snapshot=True) as read:
        assert (await audit.audit(read)).discrepancies == []


async def test_those_who_come_as_a_transaction_ends_share_the_next(
    db: Database, shared_url: str, together: Together, transactions: list[int]
) -> None:
    a, b = await factories.add_users_with(db, 10, 0)
    async with locked_account(shared_url, a):
        first = begin(together, transfer(a, b, 1))
        await until_waiting_for_a_lock(shared_url)
        in_line = begin(together, transfer(a, b, 1))
        on_the_way: list[asyncio.Task[TransferRow]] = []
        first.add_done_callback(lambda _: on_the_way.append(begin(together, transfer(a, b, 1))))
        await asyncio.sleep(0)
    await in_line
    await asyncio.gather(first, *on_the_way)
    assert transactions == [1, 2]


@differs(Difference.ONE_WRITER)
async def test_those_who_meet_nobody_wait_for_nobody(
    db: Database, shared_url: str, together: Together
) -> None:
    hot, cold, a, b = await factories.add_users_with(db, 10, 10, 10, 10)
    async with locked_account(shared_url, hot):
        held_up = begin(together, transfer(cold, hot, 1))
        await until_waiting_for_a_lock(shared_url)
        await begin(together, transfer(a, b, 3))
        assert not held_up.done()
    await held_up
    assert await balances(db, [hot, cold, a, b]) == [11, 9, 7, 13]


async def test_more_than_one_transaction_takes_are_made_by_the_next(
    db: Database, shared_url: str, together: Together, transactions: list[int]
) -> None:
    a, b = await factories.add_users_with(db, 1_000, 0)
    async with locked_account(shared_url, a):
        first = begin(together, transfer(a, b, 1))
        await until_waiting_for_a_lock(shared_url)
        more = [begin(together, transfer(a, b, 1)) for _ in range(MOST + 5)]
        await asyncio.sleep(0)
    await asyncio.gather(first, *more)
    assert transactions == [1, MOST, 5]


async def test_each_has_its_own_outcome_in_the_order_they_came(
    db: Database, shared_url: str, together: Together, transactions: list[int]
) -> None:
    a, b = await factories.add_users_with(db, 10, 0)
    async with locked_account(shared_url, a):
        first = begin(together, transfer(a, b, 1))
        await until_waiting_for_a_lock(shared_url)
        more = [
            begin(together, each)
            for each in (
                transfer(a, b, 9),
                transfer(a, b, 1),
                transfer(b, a, 4),
                transfer(a, b, 3),
                transfer(a, 987_654, 1),
            )
        ]
        await asyncio.sleep(0)
    outcomes = await all_of([first, *more])
    told = [each if isinstance(each, BaseException) else each.amount for each in outcomes]
    assert [type(each) if isinstance(each, StorageError) else each for each in told] == [
        *(1, 9, InsufficientCredits, 4, 3, NotFound)
    ]
    assert transactions == [1, 3]
    assert await balances(db, [a, b]) == [1, 9]


async def test_a_caller_who_leaves_in_line_takes_only_their_own_transfer_back(
    db: Database, shared_url: str, together: Together
) -> None:
    a, b = await factories.add_users_with(db, 10, 0)
    async with locked_account(shared_url, a):
        first = begin(together, transfer(a, b, 1))
        await until_waiting_for_a_lock(shared_url)
        left, stayed = (begin(together, transfer(a, b, each)) for each in (2, 3))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
    assert left.cancelled()
    await asyncio.gather(first, stayed)
    assert await balances(db, [a, b]) == [6, 4]


async def test_a_caller_who_leaves_while_theirs_is_made_alone_takes_it_back(
    db: Database, shared_url: str, together: Together
) -> None:
    a, b = await factories.add_users_with(db, 10, 0)
    async with locked_account(shared_url, a):
        left = begin(together, transfer(a, b, 1), 1)
        await until_waiting_for_a_lock(shared_url)
        next_in_line = begin(together, transfer(a, b, 2))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
    await next_in_line
    assert await balances(db, [a, b]) == [8, 2]
    await begin(together, transfer(a, b, 1), 1)
    assert await balances(db, [a, b]) == [7, 3]


async def test_a_caller_who_leaves_while_theirs_is_made_with_others_stops_nobody(
    db: Database, shared_url: str, together: Together
) -> None:
    a, b = await factories.add_users_with(db, 10, 0)
    async with under_way(db, shared_url, together, a, b) as (left, stayed):
        left.cancel()
        await asyncio.wait([left])
    await stayed
    assert await balances(db, [a, b]) == [8, 3]
    # Sent again, it is answered with what it did.
    with pytest.raises(AlreadyAnswered) as answered:
        await begin(together, transfer(a, b, 1), 1)
    assert answered.value.found.answer == f"{a} gave {b} 1".encode()


@asynccontextmanager
async def under_way(
    db: Database, url: str, together: Together, a: int, b: int
) -> AsyncIterator[list[asyncio.Task[TransferRow]]]:
    """Has transfers of 1 and 2 made together while the block lasts, with request ids 1 and 2."""
    (hot,) = await factories.add_users_with(db, 1)
    async with AsyncExitStack() as stack:
        async with locked_account(url, hot):
            first = begin(together, transfer(hot, a, 1))
            await until_waiting_for_a_lock(url)
            both = [begin(together, transfer(a, b, each), each) for each in (1, 2)]
            locking = asyncio.create_task(stack.enter_async_context(in_the_way(db, b)))
            # It comes before theirs: it has the account, or on SQLite waits for its turn.
            await until(lambda: locking.done() or in_turn(url) == 2)
        await asyncio.gather(first, locking)
        await until_waiting_for_a_lock(url)
        yield both


@asynccontextmanager
async def in_the_way(db: Database, user_id: int) -> AsyncIterator[None]:
    """Has a transaction of Byline's keep others from an account while the block lasts."""
    async with db.transaction() as tx:
        account = select(CreditAccount.user_id).where(CreditAccount.user_id == user_id)
        await tx.execute(account.with_for_update())
        yield


async def test_a_request_id_is_kept_for_what_was_made_and_for_nothing_else(
    db: Database, shared_url: str, together: Together, transactions: list[int]
) -> None:
    a, b = await factories.add_users_with(db, 10, 0)
    await begin(together, transfer(a, b, 1), 1)
    async with locked_account(shared_url, a):
        first = begin(together, transfer(a, b, 1))
        await until_waiting_for_a_lock(shared_url)
        more = [
            begin(together, transfer(a, b, 1), 1),
            begin(together, transfer(a, b, 2), 2),
            begin(together, transfer(a, b, 90), 3),
            begin(together, transfer(b, a, 1), 4),
        ]
        await asyncio.sleep(0)
    await first
    again, made, failed, back = await all_of(more)
    assert isinstance(again, AlreadyAnswered)
    assert again.found == requests.Answered({"amount": "1"}, f"{a} gave {b} 1".encode())
    assert not isinstance(made, BaseException)
    assert not isinstance(back, BaseException)
    assert isinstance(failed, InsufficientCredits)
    assert transactions == [1, 1, 2]
    async with db.read() as read:
        found = [await requests.find(read, key_of(each)) for each in (1, 2, 3, 4)]
    assert [each and each.answer.decode() for each in found] == [
        *(f"{a} gave {b} 1", f"{a} gave {b} 2", None, f"{b} gave {a} 1")
    ]
    await factories.make(db, factories.grant(a, 100))
    await begin(together, transfer(a, b, 90), 3)


@differs(Difference.ONE_WRITER)
async def test_what_holds_one_up_fails_no_other(
    db: Database, shared_url: str, patient_for_a_moment: Database
) -> None:
    together = Together(patient_for_a_moment)
    hot, locked, a, b = await factories.add_users_with(db, 10, 10, 10, 10)
    async with locked_account(shared_url, locked):
        async with locked_account(shared_url, hot):
            first = begin(together, transfer(a, hot, 1))
            await until_waiting_for_a_lock(shared_url)
            held_up = begin(together, transfer(locked, hot, 1), 1)
            others = [begin(together, transfer(each, hot, 1)) for each in (a, b)]
            await asyncio.sleep(0)
        outcomes = await all_of([first, held_up, *others])
    assert [type(each) for each in outcomes if isinstance(each, Exception)] == [LockTimeout]
    assert isinstance(outcomes[1], LockTimeout)
    assert await balances(db, [hot, locked, a, b]) == [13, 10, 8, 9]
    await begin(together, transfer(locked, hot, 1), 1)
    await together.close()


@pytest.fixture
async def patient_for_a_moment(shared_url: str) -> AsyncIterator[Database]:
    """The database, for those who wait for a lock for a moment only."""
    database = Database(shared_url, PoolConfig(lock_timeout=3.0))
    yield database
    await database.close()


@differs(Difference.NO_SERVER)
async def test_what_is_in_the_way_of_all_is_told_to_all_and_leaves_no_line(
    db: Database, shared_url: str, together: Together
) -> None:
    a, b, c = await factories.add_users_with(db, 10, 0, 0)
    async with locked_account(shared_url, c):
        async with locked_account(shared_url, a):
            first = begin(together, transfer(a, b, 1))
            await until_waiting_for_a_lock(shared_url)
            more = [begin(together, transfer(a, c, 1), each) for each in range(3)]
            await asyncio.sleep(0)
        await first
        await until_waiting_for_a_lock(shared_url)
        await end_connections(shared_url)
        assert [type(each) for each in await all_of(more)] == [DatabaseDown] * 3
    await begin(together, transfer(a, c, 1), 1)
    assert await balances(db, [a, b, c]) == [8, 1, 1]


@differs(Difference.ONE_WRITER)
async def test_a_deadlock_is_for_each_caller_to_try_again(
    db: Database, shared_url: str, together: Together
) -> None:
    a, b = await factories.add_users_with(db, 10, 10)
    async with looking_on(shared_url) as other:
        async with other.transaction():
            # Against the order of ids. Who has waited longer is the first to look for deadlocks on
            # PostgreSQL, and who has changed less is the one to fail on MariaDB.
            await other.execute("UPDATE users SET full_name = 'Ada' WHERE id = :id", id=b)
            await other.lock("credit_accounts", user_id=b)
            caught = begin(together, transfer(a, b, 1))
            await until_waiting_for_a_lock(shared_url)
            await other.lock("credit_accounts", user_id=a)
            with pytest.raises(Contention):
                await caught
        await begin(together, transfer(a, b, 1))
    assert await balances(db, [a, b]) == [9, 11]


async def test_closing_waits_for_what_is_under_way(db: Database, shared_url: str) -> None:
    together = Together(db)
    a, b = await factories.add_users_with(db, 10, 0)
    async with under_way(db, shared_url, together, a, b) as callers:
        for each in callers:
            each.cancel()
        closing = asyncio.create_task(together.close())
        await asyncio.wait(callers)
        assert not closing.done()
    await closing
    assert await balances(db, [a, b]) == [8, 3]
