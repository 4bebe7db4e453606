"""What tests of storage stand on: a database of their own costs more than most of them do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from storage.database import Database
from tests.emptying import empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def db(shared_url: str) -> AsyncIterator[Database]:
    """A migrated database with nothing in it: one for the tests of a file, emptied for each."""
    await empty(shared_url)
    database = Database(shared_url)
    yield database
    await database.close()
