"""Callers notice nothing while the schema goes one step further under the server that they call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import migrations
from tests.migrations.callers import load
from tests.migrations.later import HEAD, Later, Step
from tests.processes import calling, serving, until
from tests.sessions import connected, migrators_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

run = asyncio.to_thread

# A table beside users that has a row for each, which the code before it knows nothing of.
BESIDE = """\
op.create_table("seen", sa.Column("user_id", sa.BigInteger(), sa.ForeignKey("users.id",\
 ondelete="CASCADE"), primary_key=True))
    op.execute("CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen\
 SELECT id FROM changed; RETURN NULL; END'")
    op.execute("CREATE TRIGGER see AFTER INSERT ON users REFERENCING NEW TABLE AS changed\
 FOR EACH STATEMENT EXECUTE FUNCTION see()")
    op.execute("INSERT INTO seen SELECT id FROM users")"""

EXPANSIONS = {
    "a column": Step('op.add_column("users", sa.Column("pronouns", sa.Text(), server_default=""))'),
    "wider columns": Step(
        'op.alter_column("users", "full_name", type_=sa.String(200))\n'
        '    op.alter_column("posts", "title", type_=sa.String(400))\n'
        '    op.alter_column("tags", "name", type_=sa.String(100))\n'
        '    op.alter_column("ledger", "memo", type_=sa.Text())'
    ),
    "a table that a trigger fills": Step(BESIDE),
    "an index": Step('online.create_index("ix_users_name", "users", ["full_name", "id"])'),
}


@pytest.mark.parametrize("step", EXPANSIONS.values(), ids=EXPANSIONS)
async def test_no_call_fails_while_a_later_byline_migrates(
    database_url: str, tmp_path: Path, step: Step
) -> None:
    later = Later(tmp_path, step)
    flags = ("--database-url", database_url)
    async with (
        serving(tmp_path.parent, *flags) as byline,
        calling(byline) as client,
        load(client, HEAD),
    ):
        ended = await later.migrate(database_url, "up")
        assert ended.status == 0, ended.said
    assert (await run(migrations.status, database_url)).current == later.head


async def test_a_step_lets_callers_pass_who_wait_behind_it(
    database_url: str, tmp_path: Path, serve: Serve
) -> None:
    """The one who has the table keeps it for longer than a step waits at once."""
    later = Later(tmp_path, EXPANSIONS["a column"])
    async with serve(database_url) as client, connected(database_url) as reader:
        async with load(client, HEAD) as callers:
            await reader.execute("BEGIN; SELECT count(*) FROM users")
            migrating = asyncio.create_task(later.migrate(database_url, "up"))
            for _ in range(2):
                await until(lambda: reader.fetchval(WAITS))
                await callers.get_on()
            assert not migrating.done()
            await reader.execute("COMMIT")
            assert (await migrating).status == 0
        assert await migrators_of(reader) == 0


WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted)"


async def test_a_byline_one_step_behind_starts_and_serves(
    database_url: str, tmp_path: Path
) -> None:
    later = Later(tmp_path, EXPANSIONS["a table that a trigger fills"])
    assert (await later.migrate(database_url, "up")).status == 0
    flags = ("--database-url", database_url, "--migrate")
    async with serving(tmp_path.parent, *flags) as byline, calling(byline) as client:
        assert f"{later.head}, one step ahead of {HEAD}" in byline.output
        async with load(client, HEAD):
            pass
    assert (await run(migrations.status, database_url)).current == later.head
