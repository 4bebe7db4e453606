"""What is done aside: one after another, all that have come, or none where it cannot be."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from storage.dialects.errands import Errands
from storage.usage import Usage, seconds_left, usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.database import Database


@pytest.fixture
async def errands(db: Database) -> AsyncIterator[Errands]:
    """Errands to the test's database."""
    made = Errands(db.engine, patience=5)
    yield made
    await made.done()


async def note(done: list[int], number: int, connection: AsyncConnection) -> None:
    """An errand that the database has a part in."""
    done.append((await connection.exec_driver_sql(f"SELECT {number}")).scalar_one())


async def test_errands_run_one_after_another(errands: Errands) -> None:
    done: list[int] = []
    for number in range(3):
        errands.begin(partial(note, done, number))
    await errands.done()
    assert done == [0, 1, 2]


async def test_an_errand_that_waits_already_runs_once(errands: Errands) -> None:
    done: list[int] = []
    errand = partial(note, done, 1)
    errands.begin(errand)
    errands.begin(errand)
    await errands.done()
    assert done == [1]


async def test_an_errand_that_comes_as_the_connection_is_given_back_runs(
    db: Database, errands: Errands
) -> None:
    done: list[int] = []

    def again(*_: object) -> None:
        if done == [1]:
            errands.begin(partial(note, done, 2))

    event.listen(db.engine.sync_engine, "checkin", again)
    errands.begin(partial(note, done, 1))
    await errands.done()
    assert done == [1, 2]


async def test_an_errand_that_fails_is_given_up_and_those_after_it_run(errands: Errands) -> None:
    done: list[int] = []

    async def fail(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("SELECT nothing FROM nowhere")

    errands.begin(fail)
    errands.begin(partial(note, done, 1))
    await errands.done()
    assert done == [1]


async def test_an_errand_that_is_under_way_stands_for_an_equal_one(errands: Errands) -> None:
    done: list[int] = []

    async def ask_for_itself(connection: AsyncConnection) -> None:
        errands.begin(ask_for_itself)
        await note(done, 1, connection)

    errands.begin(ask_for_itself)
    await errands.done()
    assert done == [1]


async def test_an_errand_has_not_the_deadline_of_the_caller_that_it_is_run_for(
    errands: Errands,
) -> None:
    left: list[float] = []

    async def look(_: AsyncConnection) -> None:
        left.append(seconds_left())

    token = usage.set(Usage(deadline=0))
    errands.begin(look)
    usage.reset(token)
    await errands.done()
    assert left == [float("inf")]


async def test_what_cannot_be_told_is_given_up() -> None:
    done: list[int] = []
    nowhere = create_async_engine("mysql+asyncmy://nobody@127.0.0.1:1/nowhere")
    errands = Errands(nowhere, patience=5)
    errands.begin(partial(note, done, 1))
    await errands.done()
    await errands.done()
    await nowhere.dispose()
    assert done == []
