"""A migrator that is killed at any moment leaves what the next one completes."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import pytest

import migrations
from migrations.revisions import BASE, preceding
from storage.database import Database
from tests import factories
from tests.migrations.killed import killed
from tests.migrations.later import REVISIONS
from tests.migrations.schemas import Seen, seen

if TYPE_CHECKING:
    from tests.engines import Engine

ENGINES = ("postgresql", "mariadb", "sqlite")
# What none of the steps has fewer of, commits among them.
STATEMENTS = 5
run = asyncio.to_thread


@pytest.mark.parametrize("revision", REVISIONS)
async def test_the_next_completes_the_step_that_one_leaves_who_is_killed(
    engine: Engine, empty_url: str, revision: str
) -> None:
    before = preceding(revision)
    await run(migrations.up, empty_url, before)
    await write(empty_url, before)
    await run(migrations.up, empty_url, revision)
    above = await seen(empty_url)
    await run(migrations.down, empty_url, before)
    below = await seen(empty_url)
    # One engine has half a step to complete.
    for moment in count(1, 1 if engine.name == "mariadb" else 5):
        deaths = 0
        for action, start, goal, end in (
            ("up", below, revision, above),
            ("down", above, before, below),
        ):
            if await killed(moment, action, empty_url, goal):
                deaths += 1
                if engine.name != "mariadb":
                    left = await seen(empty_url)
                    assert left.schema in (start.schema, end.schema)
                await run(getattr(migrations, action), empty_url, goal)
            found = await seen(empty_url)
            assert found.schema == end.schema
            assert kept(found, end) == kept(end, found)
        if not deaths:
            break
    assert moment > STATEMENTS
    await run(migrations.up, empty_url)
    await run(migrations.check, empty_url)


async def write(url: str, revision: str) -> None:
    """Writes rows into the tables of a revision."""
    if revision == BASE:
        return
    db = Database(url)
    first, *_ = await factories.add_users(db, 3)
    await factories.add_profile(db, first.id)
    if revision >= "0002":
        await factories.add_post(db, author_id=first.id, tags=["x"])
    if revision >= "0003":
        await factories.make(db, factories.grant(first.id, 5))
    await db.close()


def kept(one: Seen, other: Seen) -> dict[str, object]:
    """The rows that two have in common, but for the moments at which a step made them."""
    return {
        table: [row[:3] for row in rows] for table, rows in one.rows.items() if table in other.rows
    }
