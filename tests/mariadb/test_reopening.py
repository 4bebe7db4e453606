"""A table that MariaDB was stopped at opening is opened anew, and no caller has to know."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from byline.v1 import resources_pb2
from byline.v1 import users_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy.exc import DBAPIError

from service import interceptors
from storage import users
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

# Reading it takes five times as long as the statement that opens the table may take.
LENGTHY = (
    "CREATE TRIGGER lengthy BEFORE UPDATE ON users FOR EACH ROW BEGIN "
    + "IF NEW.id = 0 THEN SET NEW.full_name = ''; END IF; " * 2000
    + "END"
)
STOPPED = "SET STATEMENT max_statement_time = 0.01 FOR SELECT id FROM users"
WRITE = "UPDATE users SET full_name = full_name"


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
        await other.execute(LENGTHY)

        async def is_broken() -> bool:
            await other.execute("FLUSH TABLES users")
            with suppress(DBAPIError):
                await other.execute(STOPPED)
            try:
                await other.execute(WRITE)
            except DBAPIError:
                return True
            return False

        await until(is_broken)
    return user


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
