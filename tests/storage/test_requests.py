"""Requests that were answered: who gets to answer one, and what becomes of the answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import pytest
from sqlalchemy import select

from storage import requests
from storage.models import Request
from storage.moments import datetime_of
from storage.requests import AlreadyAnswered, Answered, Claim, Key
from tests import factories
from tests.differences import Difference, differs
from tests.onlookers import looking_on, until_waiting_for_a_lock
from tests.statements import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.database import Database

DIGESTS = {"user.id": "ab", "user.full_name": "cd"}
ANSWER = b"\x00\xff an answer"
DAY = timedelta(days=1)


@pytest.fixture
def key() -> Key:
    return Key("", "/byline.v1.UserService/CreateUser", uuid4())


async def answer(db: Database, key: Key) -> None:
    async with db.transaction() as tx:
        await requests.claim(tx, Claim(key, DIGESTS))
        await requests.keep(tx, key, ANSWER)


async def find(db: Database, key: Key) -> Answered | None:
    async with db.read() as read:
        return await requests.find(read, key)


async def count(db: Database) -> int:
    return int((await run(db, "SELECT count(*) FROM requests")).scalar_one())


async def purge(db: Database) -> int:
    async with db.transaction() as tx:
        return await requests.purge(tx, DAY)


# Answers


async def test_an_answer_is_found_as_it_was_kept(db: Database, key: Key) -> None:
    await answer(db, key)
    assert await find(db, key) == Answered(DIGESTS, ANSWER)


async def test_an_empty_answer_is_one(db: Database, key: Key) -> None:
    async with db.transaction() as tx:
        await requests.claim(tx, Claim(key, {}))
        await requests.keep(tx, key, b"")
    assert await find(db, key) == Answered({}, b"")


@pytest.mark.parametrize("part", [{"caller": "ada"}, {"method": "other"}, {"request_id": uuid4()}])
async def test_a_call_is_another_if_any_part_of_its_key_is(
    db: Database, key: Key, part: dict[str, object]
) -> None:
    await answer(db, key)
    another = Key(**{**key._asdict(), **part})
    assert await find(db, another) is None
    await answer(db, another)


async def test_a_call_is_answered_once(db: Database, key: Key) -> None:
    await answer(db, key)
    with pytest.raises(AlreadyAnswered) as raised:
        await answer(db, key)
    assert raised.value.found == Answered(DIGESTS, ANSWER)


async def test_a_call_whose_transaction_fails_was_not_answered(db: Database, key: Key) -> None:
    async def fail() -> None:
        async with db.transaction() as tx:
            await requests.claim(tx, Claim(key, DIGESTS))
            await requests.keep(tx, key, ANSWER)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await find(db, key) is None
    await answer(db, key)


class Race(NamedTuple):
    """A claim whose transaction goes on until told to end, and a claim that waits for it."""

    end: asyncio.Event
    first: asyncio.Future[None]
    second: asyncio.Future[None]


@pytest.fixture
async def race(db: Database, key: Key, shared_url: str) -> AsyncIterator[Race]:
    async def hold() -> None:
        async with db.transaction() as tx:
            await requests.claim(tx, Claim(key, DIGESTS))
            await requests.keep(tx, key, ANSWER)
            claimed.set()
            await end.wait()

    end, claimed = asyncio.Event(), asyncio.Event()
    first = asyncio.ensure_future(hold())
    await claimed.wait()
    second = asyncio.ensure_future(answer(db, key))
    await until_waiting_for_a_lock(shared_url)
    yield Race(end, first, second)
    await asyncio.wait([first, second])


async def test_a_claim_waits_for_the_one_before_it_and_finds_its_answer(race: Race) -> None:
    race.end.set()
    await race.first
    with pytest.raises(AlreadyAnswered) as raised:
        await race.second
    assert raised.value.found.answer == ANSWER


async def test_a_claim_takes_the_place_of_one_that_failed(race: Race) -> None:
    race.first.cancel()
    await race.second
    assert race.first.cancelled()


async def test_a_claim_takes_the_place_of_one_that_is_purged(
    db: Database, key: Key, shared_url: str
) -> None:
    await answer(db, key)
    async with looking_on(shared_url) as other, other.transaction("commit"):
        await other.execute("DELETE FROM requests")
        again = asyncio.ensure_future(answer(db, key))
        await until_waiting_for_a_lock(shared_url)
    await again


# The secret


async def test_all_who_ask_at_once_get_the_same_secret(db: Database) -> None:
    async def ask() -> bytes:
        async with db.transaction() as tx:
            return await requests.shared_key(tx)

    await run(db, "DELETE FROM request_keys")
    secrets = await asyncio.gather(*(ask() for _ in range(10)))
    assert len(set(secrets)) == 1
    assert len(secrets[0]) == requests.KEY_BYTES
    assert await ask() == secrets[0]


# Purging


async def test_only_what_is_too_old_is_purged(db: Database, key: Key) -> None:
    await answer(db, key)
    await factories.add_requests(db, 3, age=2 * DAY)
    assert await purge(db) == 3
    assert await purge(db) == 0
    assert await find(db, key) is not None


async def test_a_purge_takes_the_oldest_and_only_so_many(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BATCH", 5)
    await factories.add_requests(db, 4, age=2 * DAY)
    await factories.add_requests(db, 3, age=3 * DAY)
    assert await purge(db) == 5
    async with db.read() as read:
        left = (await read.execute(select(Request.created_at))).scalars()
    assert [(datetime.now(UTC) - datetime_of(created_at)).days for created_at in left] == [2, 2]


@differs(Difference.ONE_WRITER)
async def test_a_purge_passes_over_what_another_is_purging(db: Database) -> None:
    await factories.add_requests(db, 3, age=2 * DAY)
    async with db.transaction() as tx:
        await tx.execute(
            select(Request.request_id).order_by(Request.request_id).limit(1).with_for_update()
        )
        assert await purge(db) == 2
    assert await purge(db) == 1


async def test_any_number_may_purge_at_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BATCH", 10)
    await factories.add_requests(db, 500, age=2 * DAY)

    async def purge_all() -> int:
        purged = 0
        while await count(db):
            purged += await purge(db)
        return purged

    assert sum(await asyncio.gather(*(purge_all() for _ in range(8)))) == 500
