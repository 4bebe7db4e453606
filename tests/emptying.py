"""Databases of any kind as a test wants to find them."""

from __future__ import annotations

from sqlalchemy import make_url

from storage.database import PoolConfig
from storage.dialects.engine import make_engine
from storage.dialects.transactions import autocommit_options
from tests.sessions import EMPTY_LEDGER, connected

# Takes all credits away, past the triggers that keep the ledger.
_EMPTY_LEDGER = {
    "postgresql": (EMPTY_LEDGER,),
    "mysql": (
        "TRUNCATE ledger",
        "DELETE FROM open_holds",
        "UPDATE credit_accounts SET available = 0, held = 0",
    ),
    "sqlite": (
        "DROP TRIGGER keep_ledger_from_DELETE",
        "DELETE FROM ledger",
        """
        CREATE TRIGGER keep_ledger_from_DELETE BEFORE DELETE ON ledger
        BEGIN SELECT RAISE(ABORT, 'byline_keep_ledger'); END
        """,
        "DELETE FROM open_holds",
        "UPDATE credit_accounts SET available = 0, held = 0",
    ),
}
_ROWS = ("DELETE FROM users", "DELETE FROM tags", "DELETE FROM requests")
_IDS = {
    "postgresql": [
        f"ALTER SEQUENCE {each}_id_seq RESTART" for each in ("users", "posts", "tags", "ledger")
    ],
    "mysql": [f"ALTER TABLE {each} AUTO_INCREMENT = 1" for each in ("users", "posts", "tags")],
    "sqlite": ["DELETE FROM sqlite_sequence"],
}


async def empty(url: str) -> None:
    """Removes everything, and begins to count ids from the start."""
    kind = make_url(url).get_backend_name()
    statements = (*_EMPTY_LEDGER[kind], *_ROWS, *_IDS[kind])
    if kind == "postgresql":
        async with connected(url) as connection:
            for each in statements:
                await connection.execute(each)
        return
    engine = make_engine(url, PoolConfig(size=1, overflow=0, statement_timeout=0))
    try:
        async with engine.execution_options(**autocommit_options(engine)).connect() as other:
            for each in statements:
                await other.exec_driver_sql(each)
    finally:
        await engine.dispose()
