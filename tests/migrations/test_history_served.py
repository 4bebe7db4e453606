"""Callers notice nothing while the schema goes one step further, whichever database it is of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import migrations
from migrations.revisions import preceding
from tests.migrations.callers import load
from tests.migrations.later import HEAD, REVISIONS, Later, Step

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

ENGINES = ("postgresql", "mariadb", "sqlite")
run = asyncio.to_thread

EXPANSIONS = {
    "a column": Step('op.add_column("users", sa.Column("pronouns", sa.Text(), nullable=True))'),
    "an index": Step('online.create_index("ix_users_name", "users", ["full_name", "id"])'),
}


@pytest.mark.parametrize("revision", REVISIONS[1:])
async def test_no_call_fails_while_the_history_is_made(
    empty_url: str, serve: Serve, revision: str
) -> None:
    before = preceding(revision)
    await run(migrations.up, empty_url, before)
    async with serve(empty_url) as client, load(client, before):
        await run(migrations.up, empty_url, revision)
    assert (await run(migrations.status, empty_url)).current == revision


@pytest.mark.parametrize("step", EXPANSIONS.values(), ids=EXPANSIONS)
async def test_no_call_fails_while_a_later_byline_expands_a_table(
    database_url: str, tmp_path: Path, serve: Serve, step: Step
) -> None:
    later = Later(tmp_path, step)
    async with serve(database_url) as client, load(client, HEAD):
        ended = await later.complete(database_url)
        assert ended.status == 0, ended.said
    assert (await run(migrations.status, database_url)).current == later.head
