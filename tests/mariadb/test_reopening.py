"""A table that MariaDB was stopped at opening is opened anew, and no caller has to know."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
from byline.v1 import resources_pb2
from byline.v1 import users_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service import interceptors
from storage import tags, users
from storage.database import Database
from storage.dialects import reopening
from storage.errors import Contention
from storage.users import Key
from tests import factories
from tests.onlookers import looking_on
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.users import UserRow
    from tests.conftest import Serve
    from tests.onlookers import Onlooker

# Reading it takes five times as long as the statement that opens the table may take.
LENGTHY = (
    "CREATE TRIGGER lengthy_{table} BEFORE UPDATE ON {table} FOR EACH ROW BEGIN "
    + "IF NEW.id = 0 THEN SET NEW.id = 1; END IF; " * 2000
    + "END"
)
STOPPED = "SET STATEMENT max_statement_time = 0.01 FOR SELECT id FROM {table}"
WRITE = "UPDATE {table} SET id = id"
REOPENED = """
    SELECT COUNT(*) FROM information_schema.processlist
    WHERE db = DATABASE() AND info LIKE '%ALTER TABLE users ENABLE KEYS'
"""


@pytest.fixture
async def own(database_url: str) -> AsyncIterator[Database]:
    """A database of the test's own."""
    db = Database(database_url)
    yield db
    await db.close()


@pytest.fixture
async def user(own: Database, database_url: str) -> UserRow:
    """A user in a table of users that is open with a broken trigger."""
    user = await factories.add_user(own)
    async with looking_on(database_url) as other:
        await break_trigger(other, "users")
    return user


async def break_trigger(other: Onlooker, table: str) -> None:
    """Leaves a table open with a trigger that is cut short."""
    await other.execute(LENGTHY.format(table=table))

    async def is_broken() -> bool:
        await other.execute(f"FLUSH TABLES {table}")
        with suppress(DBAPIError):
            await other.execute(STOPPED.format(table=table))
        return not await is_written(other, table)

    await until(is_broken)


async def is_written(other: Onlooker, table: str) -> bool:
    """Writes to a table, without having it opened anew, and tells whether that can be done."""
    try:
        await other.execute(WRITE.format(table=table))
    except DBAPIError:
        return False
    return True


async def rename(db: Database, user: UserRow) -> None:
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "Ada"})


async def until_renamed(db: Database, user: UserRow) -> None:
    async def succeeds() -> bool:
        with suppress(Contention):
            await rename(db, user)
            return True
        return False

    await until(succeeds)


async def test_a_write_that_finds_a_trigger_broken_may_be_tried_again(
    own: Database, user: UserRow
) -> None:
    with pytest.raises(Contention):
        await rename(own, user)
    await until_renamed(own, user)
    async with own.read() as read:
        assert (await users.get(read, Key("id", user.id))).full_name == "Ada"


async def test_a_table_that_is_found_broken_while_another_is_opened_is_opened_too(
    own: Database, user: UserRow, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than it takes to see it wait for whoever is within a transaction.
    patient = reopening._REOPEN.replace("timeout = 1", "timeout = 4")  # noqa: SLF001 - a bound of its own
    monkeypatch.setattr(reopening, "_REOPEN", patient)
    async with own.transaction() as tx:
        await tags.ensure(tx, ["notes"])
    async with looking_on(database_url) as other:
        await break_trigger(other, "tags")
        async with own.transaction() as holding:
            await users.get(holding, Key("id", user.id))
            with pytest.raises(Contention):
                await rename(own, user)

            async def is_reopened() -> bool:
                return bool(await other.value(REOPENED))

            await until(is_reopened)
            with pytest.raises(Contention):
                async with own.transaction() as tx:
                    await tx.execute(text(WRITE.format(table="tags")))
        for table in ("users", "tags"):
            await until(partial(is_written, other, table))


async def test_where_a_table_cannot_be_opened_anew_a_warning_says_so_until_it_can(
    own: Database,
    user: UserRow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reopening, "REST", 0)
    async with own.transaction() as holding:
        await users.get(holding, Key("id", user.id))
        with pytest.raises(Contention):
            await rename(own, user)
        await until(lambda: "FLUSH TABLES mends it: users" in caplog.text)
    await until_renamed(own, user)


async def test_a_table_that_could_not_be_opened_anew_rests_before_the_next_try(
    own: Database, user: UserRow, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    writing = Database(database_url)
    async with own.transaction() as holding:
        await users.get(holding, Key("id", user.id))
        with pytest.raises(Contention):
            await rename(writing, user)
        await until(lambda: "FLUSH TABLES mends it: users" in caplog.text)
        caplog.clear()
        with pytest.raises(Contention):
            await rename(writing, user)
        await writing.close()
    assert caplog.text == ""


async def test_a_call_succeeds_though_it_finds_a_trigger_broken(
    serve: Serve, database_url: str, user: UserRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To read the lengthy trigger takes as long as some tries do, which Byline's own do not.
    monkeypatch.setattr(interceptors, "FIRST_BACKOFF", 1)
    async with serve(database_url) as client:
        request = pb.UpdateUserRequest(
            user=resources_pb2.User(id=user.id, full_name="Ada"),
            update_mask=FieldMask(paths=["full_name"]),
        )
        answer = await client.users.UpdateUser(request)
        assert answer.user.full_name == "Ada"
