"""What tests of storage stand on: a database of their own costs more than most of them do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.database import Database
from tests.sessions import EMPTY_LEDGER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def db(shared_url: str) -> AsyncIterator[Database]:
    """A migrated database with nothing in it: one for the tests of a file, emptied for each."""
    database = Database(shared_url)
    async with database.transaction() as tx:
        await tx.execute(text(EMPTY_LEDGER))
        await tx.execute(text("TRUNCATE users, tags CASCADE"))
    yield database
    await database.close()
