"""A migrator that is killed at any moment leaves what the next one completes."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

import migrations
from tests.migrations.later import HEAD, Later, Step
from tests.sessions import connected

if TYPE_CHECKING:
    from pathlib import Path

run = asyncio.to_thread
KILLED = "tests.migrations.killed"
INDEX = Step('online.create_index("ix_users_name", "users", ["full_name", "id"])')
IS_WHOLE = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_users_name')"
# Statements of a run from an empty database to the index, at least.
STATEMENTS = 60


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([1, 13, 30, 47, STATEMENTS], id="some"),
        pytest.param(range(1, 200, 3), id="many", marks=pytest.mark.long),
    ],
)
async def test_the_next_completes_what_one_leaves_that_is_killed(
    empty_url: str, tmp_path: Path, moments: list[int]
) -> None:
    later = Later(tmp_path, INDEX)
    survived = None
    for moment in moments:
        killed = later.start(empty_url, "up", str(moment), module=KILLED)
        status, said = await killed.ended()
        if status == 0:
            survived = moment
            break
        assert status == -signal.SIGKILL, said
        ended = await later.migrate(empty_url, "up")
        assert ended.status == 0, ended.said
        async with connected(empty_url) as admin:
            assert await admin.fetchval(IS_WHOLE) is True
            await admin.execute("DROP INDEX ix_users_name")
            await admin.execute("UPDATE alembic_version SET version_num = $1", HEAD)
        await run(migrations.check, empty_url)
        await run(migrations.down, empty_url, "base")
    assert survived is None or survived > STATEMENTS
