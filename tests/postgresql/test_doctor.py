"""What `byline doctor` finds of PostgreSQL's extensions."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from storage.database import Database
from storage.dialects import facts
from tests.doctors import examine, lines_of
from tests.statements import run

if TYPE_CHECKING:
    import pytest

    from tests.conftest import Command


def test_an_extension_that_is_nowhere_is_found(
    byline: Command, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = facts._ASKED["postgresql"]  # noqa: SLF001 - every server here has the real one
    changed = asked._replace(statement=asked.statement.replace("pg_trgm", "nowhere"))
    monkeypatch.setitem(facts._ASKED, "postgresql", changed)  # noqa: SLF001 - so too
    ended = examine(byline, empty_url)
    outcome, told = lines_of(ended)["extensions"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert re.match("nowhere cannot be made; install it", told)


def test_an_extension_that_was_dropped_is_found(byline: Command, database_url: str) -> None:
    async def drop() -> None:
        db = Database(database_url)
        await run(db, "DROP EXTENSION pg_trgm CASCADE")
        await db.close()

    asyncio.run(drop())
    ended = examine(byline, database_url)
    outcome, told = lines_of(ended)["extensions"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert "CREATE EXTENSION pg_trgm" in told
