"""Callers notice nothing while the schema goes one step further under the server that they call."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import migrations
from tests.clients import Refusal, outcome_of
from tests.migrations.kinds import kinds_at
from tests.migrations.later import HEAD, REVISIONS, Later, Step
from tests.processes import calling, serving, until
from tests.sessions import connected, migrators_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.clients import Client
    from tests.conftest import Serve

CALLERS = 6
# Rounds of every caller before the step, and after it.
ROUNDS = 3
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


class Callers:
    """Callers who write and look at what they wrote, round after round.

    Args:
        client: of the server that they call.
        revision: what is kept at which they write.
    """

    def __init__(self, client: Client, revision: str) -> None:
        self.rounds = 0
        self.stopping = False
        self._client = client
        self._kinds = kinds_at(revision)

    async def call(self) -> None:
        """Writes one of each kind after the other until told to stop, and fails with a call."""
        while not self.stopping:
            for kind in self._kinds:
                kept = await outcome_of(kind(self._client))
                assert not isinstance(kept, Refusal), kept
                assert await outcome_of(kept.see()) == kept.seen
            self.rounds += 1

    async def get_on(self) -> None:
        """Waits until they have been through some more rounds."""
        wanted = self.rounds + ROUNDS * CALLERS
        await until(lambda: self.rounds >= wanted)


@asynccontextmanager
async def load(client: Client, revision: str) -> AsyncIterator[Callers]:
    """Has callers at work before the block, while it lasts and after it."""
    callers = Callers(client, revision)
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(callers.call())
        await callers.get_on()
        yield callers
        await callers.get_on()
        callers.stopping = True


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


@pytest.mark.parametrize("revision", REVISIONS[1:])
async def test_no_call_fails_while_the_history_is_made(
    empty_url: str, serve: Serve, revision: str
) -> None:
    before = f"{int(revision) - 1:04}"
    await run(migrations.up, empty_url, before)
    async with serve(empty_url) as client, load(client, before):
        await run(migrations.up, empty_url, revision)


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
