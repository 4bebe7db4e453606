"""What no step may do to tables that are large and in use."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

import migrations
from storage.database import Database
from storage.embedded import ANY_URL
from tests import factories
from tests.migrations.later import REVISIONS, Later, Step
from tests.sessions import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

run = asyncio.to_thread

LARGE = ("users", "posts")
TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX (?P<online>CONCURRENTLY )?.*? ON (?P<table>\w+)")
# What a step that builds an index online may run beside that, since it is run again if cut short.
HARMLESS = re.compile(
    r"SET |BEGIN$|COMMIT$|(UPDATE|INSERT INTO) alembic_version "
    r"|CREATE (UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS |DROP INDEX CONCURRENTLY IF EXISTS "
)
# Where a table's rows are, all of them and the file that they are in.
PLACE = """
    SELECT pg_relation_filenode('{table}'), array_agg((ctid, xmin) ORDER BY ctid) FROM {table}
"""


def faults(sql: str) -> list[str]:
    """The statements of a step that callers would have to wait for, or that cannot be run again."""
    statements = [
        re.sub(r"^(--.*|\s+)*", "", each).strip() for each in sql.split(";\n") if each.strip()
    ]
    made = set(TABLE.findall(sql))
    found = []
    for statement in statements:
        index = INDEX.match(statement)
        if index and not index["online"] and index["table"] not in made:
            found.append(statement)
    if "CONCURRENTLY" in sql:
        found += [each for each in statements if not HARMLESS.match(each)]
    return found


@pytest.mark.parametrize("revision", REVISIONS)
def test_indexes_of_tables_that_a_step_finds_are_built_concurrently(revision: str) -> None:
    before = f"{int(revision) - 1:04}" if revision != REVISIONS[0] else "base"
    sql = migrations.sql(ANY_URL, f"{before}:{revision}")
    assert f"'{revision}'" in sql
    assert faults(sql) == []


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("CREATE TABLE a (id bigint);\nCREATE INDEX i ON a (id);\n", 0),
        ("CREATE TABLE a (id bigint);\nCREATE INDEX i ON b (id);\n", 1),
        ("CREATE UNIQUE INDEX i ON users USING gin (email_key);\n", 1),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON users (id);\n", 0),
        ("CREATE INDEX CONCURRENTLY i ON users (id);\n", 1),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (id);\nDROP TABLE b;\n", 1),
        ("-- Running upgrade\n\nCREATE INDEX i ON b (id);\n", 1),
    ],
)
def test_an_index_that_callers_would_wait_for_is_found(sql: str, count: int) -> None:
    assert len(faults(sql)) == count


async def test_the_sql_of_a_later_index_has_no_faults(tmp_path: Path) -> None:
    later = Later(tmp_path, Step('online.create_index("ix_users_name", "users", ["full_name"])'))
    printed = await later.migrate(ANY_URL, "sql", f"{REVISIONS[-1]}:head")
    assert printed.status == 0
    assert "CONCURRENTLY" in printed.said
    assert faults(printed.said) == []


async def rewritten_by(url: str, change: Callable[[], Awaitable[object]]) -> list[str]:
    """The large tables whose rows are elsewhere after a change, or written again where they are."""
    before = await _places(url)
    await change()
    after = await _places(url)
    return [table for table, place in before.items() if after.get(table, place) != place]


async def test_no_step_rewrites_the_rows_of_a_large_table(empty_url: str) -> None:
    db = Database(empty_url)
    for revision in REVISIONS:
        assert await rewritten_by(empty_url, partial(run, migrations.up, empty_url, revision)) == []
        author, *_ = await factories.add_users(db, 10)
        if "posts" in await _places(empty_url):
            await factories.add_many_posts(db, author.id, 10)
    assert set(await _places(empty_url)) == set(LARGE)
    for _ in REVISIONS[1:]:
        assert await rewritten_by(empty_url, partial(run, migrations.down, empty_url)) == []
    await db.close()


@pytest.mark.parametrize(
    ("up", "tables"),
    [
        ('op.add_column("users", sa.Column("x", sa.Text()))', []),
        ('op.add_column("users", sa.Column("x", sa.Text(), server_default=""))', []),
        ('op.alter_column("users", "full_name", type_=sa.String(200))', []),
        ('op.alter_column("posts", "title", type_=sa.Text())', []),
        ('op.execute("ALTER TABLE users ADD x uuid DEFAULT gen_random_uuid()")', ["users"]),
        ('op.execute("ALTER TABLE posts ALTER published TYPE text")', ["posts"]),
        ("op.execute(\"UPDATE users SET full_name = ''\")", ["users"]),
    ],
)
async def test_a_step_that_rewrites_a_large_table_is_found(
    database_url: str, tmp_path: Path, up: str, tables: list[str]
) -> None:
    db = Database(database_url)
    (author,) = await factories.add_many_users(db, 1)
    await factories.add_many_posts(db, author, 100)
    await db.close()
    # An index of its own would be in the way, and says nothing about rows.
    async with connected(database_url) as admin:
        await admin.execute("DROP INDEX ix_posts_published, ix_posts_unpublished")
    later = Later(tmp_path, Step(up))

    async def change() -> None:
        ended = await later.migrate(database_url, "up")
        assert ended.status == 0, ended.said

    assert await rewritten_by(database_url, change) == tables


async def _places(url: str) -> dict[str, object]:
    async with connected(url) as admin:
        return {
            table: await admin.fetchrow(PLACE.format(table=table))
            for table in LARGE
            if await admin.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
        }
