"""Statements that go to PostgreSQL's own driver: which do, and that nobody can tell."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from asyncpg import InternalClientError
from sqlalchemy import bindparam, func, insert, literal, select, update

from storage.dialects.direct import AGAIN, Row
from storage.dialects.postgresql import Connection
from storage.errors import DatabaseDown
from storage.models import Tag, User
from tests import factories
from tests.statements import FRAMES, noting

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Select

    from storage.database import Database

BY_ID: Select[int, str] = (
    select(User.id, User.email).where(User.id > bindparam("above")).order_by("id")
)
# How a result is read, of which there are two kinds.
READINGS: dict[str, Callable[[Any], object]] = {
    "all": lambda result: [tuple(row) for row in result.all()],
    "iter": lambda result: [row.email for row in result],
    "scalars": lambda result: list(result.scalars()),
    "scalars all": lambda result: list(result.scalars().all()),
    "scalar": lambda result: result.scalar(),
    "first": lambda result: tuple(result.first()),
}
OF_ONE: dict[str, Callable[[Any], object]] = {
    "one": lambda result: tuple(result.one()),
    "one or none": lambda result: tuple(result.one_or_none()),
    "scalar one": lambda result: result.scalar_one(),
    "scalar one or none": lambda result: result.scalar_one_or_none(),
    "slice": lambda result: tuple(result.one()[1:]),
}
OF_NONE: dict[str, Callable[[Any], object]] = {
    "one or none": lambda result: result.one_or_none(),
    "scalar": lambda result: result.scalar(),
    "scalar one or none": lambda result: result.scalar_one_or_none(),
    "first": lambda result: result.first(),
}


async def sent_to_driver(db: Database, statement: Callable[[], Any], **values: object) -> int:
    """How often the driver itself is sent a statement that comes three times."""
    sent = 0

    async def note(_: object, query: str, __: object) -> None:
        nonlocal sent
        sent += not query.startswith(FRAMES)

    with noting(note):
        for _ in range(3):
            async with db.transaction() as tx:
                await tx.execute(statement(), values)
    return sent


@pytest.mark.parametrize(
    "statement",
    [
        BY_ID,
        select(func.count(), func.bool_or(User.is_active)).where(User.id > bindparam("above")),
        update(User).where(User.id > bindparam("above")).values(full_name="Ada"),
        insert(Tag).from_select(
            ["name", "name_key"], select(literal("x"), literal("x")).where(User.id < -1)
        ),
    ],
    ids=["rows", "values", "a change", "an addition"],
)
async def test_a_statement_that_comes_again_goes_to_the_driver(
    db: Database, statement: object
) -> None:
    assert await sent_to_driver(db, lambda: statement, above=0) == 3 - (AGAIN - 1)


async def test_a_statement_that_is_made_for_each_call_does_not(db: Database) -> None:
    assert await sent_to_driver(db, lambda: select(User.id).where(User.id == 1)) == 0


async def test_a_statement_whose_values_are_no_parameters_does_not(db: Database) -> None:
    statement = select(User.id).where(User.role == literal("user", literal_execute=True))
    assert await sent_to_driver(db, lambda: statement) == 0


@pytest.mark.parametrize(
    ("users", "above", "reading"),
    [
        *((3, 0, reading) for reading in READINGS.values()),
        *((3, 2, reading) for reading in OF_ONE.values()),
        *((3, 3, reading) for reading in OF_NONE.values()),
    ],
)
async def test_what_the_driver_answers_reads_as_what_sqlalchemy_does(
    db: Database, users: int, above: int, reading: Callable[[Any], object]
) -> None:
    first, *_ = await factories.add_users(db, users)
    statement = BY_ID.execution_options()
    told = {"above": first.id - 1 + above}
    async with db.read() as session:
        read = [reading(await session.execute(statement, told)) for _ in range(AGAIN)]
    assert read == [read[0]] * AGAIN


async def test_the_driver_tells_how_many_rows_changed(db: Database) -> None:
    await factories.add_users(db, 3)
    statement = update(User).values(full_name=bindparam("name"))
    async with db.transaction() as tx:
        counts = [(await tx.execute(statement, {"name": "Ada"})).rowcount for _ in range(AGAIN)]
    assert counts == [3] * AGAIN


async def test_a_row_has_no_attributes_but_its_columns(db: Database) -> None:
    await factories.add_user(db)
    statement = BY_ID.execution_options()
    async with db.read() as session:
        rows = [(await session.execute(statement, {"above": 0})).one() for _ in range(AGAIN)]
    row: Any = rows[-1]
    assert isinstance(row, Row)
    with pytest.raises(AttributeError, match="username"):
        _ = row.username


@pytest.mark.parametrize("frame", ["BEGIN", "COMMIT"])
async def test_a_connection_that_the_driver_cannot_make_out_is_given_up(
    db: Database, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    execute = Connection.execute
    confused: list[Connection] = []

    async def fail_once(driver: Connection, query: str, *values: object) -> str:
        if query.startswith(frame) and not confused:
            confused.append(driver)
            raise InternalClientError("cannot switch to state 15")
        return await execute(driver, query, *values)

    await factories.add_user(db)
    monkeypatch.setattr(Connection, "execute", fail_once)
    # Nothing has been done before BEGIN, and it goes to another connection.
    with pytest.raises(DatabaseDown) if frame == "COMMIT" else nullcontext():
        await factories.add_user(db)
    assert [driver.is_closed() for driver in confused] == [True]
    await factories.add_user(db)
