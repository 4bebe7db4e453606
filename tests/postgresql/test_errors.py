"""What PostgreSQL raises, and what becomes of it."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from storage.database import Database
from storage.errors import UNIQUE_KEYS, AlreadyExists, Contention, StorageError
from storage.models import User
from tests import factories
from tests.sessions import connected
from tests.storage.test_errors import GUARDED_KEYS, MEANINGS

RAISE = """
    DO $$ BEGIN
        RAISE EXCEPTION 'told to nobody' USING ERRCODE = '{}', CONSTRAINT = '{}';
    END $$
"""


@pytest.mark.parametrize(("sqlstate", "meaning"), MEANINGS.items())
async def test_an_error_of_the_database_is_translated_and_its_text_stays_behind(
    db: Database, sqlstate: str, meaning: type[StorageError]
) -> None:
    async with db.read() as read:
        with pytest.raises(StorageError) as refused:
            await read.execute(text(RAISE.format(sqlstate, "")))
    assert type(refused.value) is meaning
    assert "told to nobody" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(("name", "key"), UNIQUE_KEYS.items())
async def test_a_unique_violation_is_translated_by_the_constraint(
    db: Database, name: str, key: tuple[str, str]
) -> None:
    async with db.read() as read:
        with pytest.raises(AlreadyExists) as refused:
            await read.execute(text(RAISE.format("23505", name)))
    assert (refused.value.resource, refused.value.field) == key


async def test_a_statement_prepared_for_another_schema_is_one_to_try_again(
    database_url: str,
) -> None:
    db = Database(database_url)
    await factories.add_user(db, full_name="Ada")
    names = select(User.full_name)
    async with db.read() as one, db.read() as other:
        for read in (one, other, one, other):
            await read.execute(names)
        async with connected(database_url) as admin:
            await admin.execute("ALTER TABLE users ALTER full_name TYPE text")
        # By itself a statement is prepared anew.
        assert (await other.execute(names)).scalar_one() == "Ada"
    # The connection that was given back last.
    with pytest.raises(Contention):
        async with db.transaction() as tx:
            await tx.execute(names)
    async with db.transaction() as tx:
        assert (await tx.execute(names)).scalar_one() == "Ada"
    await db.close()


async def test_the_unique_keys_are_called_so_in_the_database(db: Database) -> None:
    async with db.read() as read:
        found = await read.execute(
            text(
                "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
                " WHERE indisunique AND NOT indisprimary AND relnamespace = 'public'::regnamespace"
            )
        )
    assert set(found.scalars()) == {*UNIQUE_KEYS, *GUARDED_KEYS}
