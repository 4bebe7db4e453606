"""The schema as PostgreSQL itself describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from storage.database import Database
from storage.errors import Unexpected
from storage.models import Base
from tests.sessions import connected
from tests.statements import run

if TYPE_CHECKING:
    import asyncpg

# Tables and what belongs to them, each with all that PostgreSQL knows to tell of it.
DESCRIPTIONS = (
    """
    SELECT attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod), attnotnull,
        attidentity::text, attgenerated::text, pg_get_expr(adbin, adrelid), collname::text
    FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND attnum > 0
        AND relname <> 'alembic_version' AND NOT attisdropped
    ORDER BY 1, 2
    """,
    """
    SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
    ORDER BY 1, 2
    """,
    """
    SELECT tablename::text, indexname::text, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    ORDER BY 1, 2
    """,
)


@pytest.mark.parametrize(
    "statement", ["UPDATE ledger SET memo = memo WHERE false", "TRUNCATE ledger"]
)
async def test_the_ledger_refuses_a_change_even_of_no_row_and_to_be_emptied(
    db: Database, statement: str
) -> None:
    with pytest.raises(Unexpected):
        await run(db, statement)


async def test_the_migrations_make_what_the_models_describe_to_the_last_detail(
    empty_url: str, shared_url: str
) -> None:
    """`alembic check` compares neither collations nor checks nor the predicates of indexes."""
    async with connected(empty_url) as admin:
        await admin.execute("CREATE EXTENSION pg_trgm")
    described = Database(empty_url)
    async with described.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await described.close()
    async with connected(empty_url) as made, connected(shared_url) as migrated:
        expected = await _description(made)
        assert await _description(migrated) == expected
        assert all(expected)


async def _description(connection: asyncpg.Connection) -> list[list[tuple[Any, ...]]]:
    return [[tuple(row) for row in await connection.fetch(query)] for query in DESCRIPTIONS]
