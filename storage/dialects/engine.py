"""How a database is reached, and what its connections are told.

Each kind of database has a function that makes its engine, by the name that its URLs begin with.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from storage import poolers
from storage.dialects import direct, mysql, postgresql, sqlite
from storage.dialects.types import MYSQL_COLLATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from storage.database import PoolConfig

# Seconds: the most that MariaDB takes.
_NO_BOUND = 100_000_000


def make_engine(url: str, pool: PoolConfig) -> AsyncEngine:
    """Returns an engine whose connections are told what the pool's configuration says."""
    engine = create_async_engine(
        url,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=pool.wait,
        pool_recycle=round(pool.recycle),
        # The connection used last is used next, so that those a quiet hour does not need age out.
        pool_use_lifo=True,
        # Values stay out of logs and errors: they may be personal, and a password hash is.
        hide_parameters=True,
        **_OPTIONS[make_url(url).get_backend_name()](pool),
    )
    if engine.dialect.name == "postgresql":
        poolers.introduce(engine, _settings_of_postgresql(pool))
        postgresql.introduce(engine)
    elif engine.dialect.name == "sqlite":
        sqlite.introduce(
            engine, lock_timeout=pool.lock_timeout, statement_timeout=pool.statement_timeout
        )
    elif engine.dialect.name == "mysql":
        mysql.introduce(engine, pool.statement_timeout)
    return engine


def _settings_of_postgresql(pool: PoolConfig) -> dict[str, str]:
    return {
        "application_name": "byline",
        "statement_timeout": _milliseconds(pool.statement_timeout),
        "lock_timeout": _milliseconds(pool.lock_timeout),
        # A transaction of ours is never idle for longer than a statement may take.
        "idle_in_transaction_session_timeout": _milliseconds(pool.statement_timeout),
        # Compiling a plan costs more than any of these statements takes.
        "jit": "off",
        "timezone": "UTC",
    }


def _postgresql(pool: PoolConfig) -> dict[str, Any]:
    return {
        "connect_args": {
            "timeout": pool.connect_timeout,
            # As many as there are.
            "statement_cache_size": direct.MOST,
        },
        # What begins and ends transactions is sent by the sessions.
        "isolation_level": "AUTOCOMMIT",
        # By the sessions too, before a connection goes back.
        "pool_reset_on_return": None,
    }


def _mysql(pool: PoolConfig) -> dict[str, Any]:
    told = {
        "time_zone": "'+00:00'",
        # What an UPDATE assigns is worked out from what was there before, as everywhere else.
        "sql_mode": "'TRADITIONAL,SIMULTANEOUS_ASSIGNMENT'",
        # In seconds, whole ones from the second on.
        "max_statement_time": f"{pool.statement_timeout}",
        "innodb_lock_wait_timeout": f"{math.ceil(pool.lock_timeout) or _NO_BOUND}",
        "idle_transaction_timeout": f"{math.ceil(pool.statement_timeout)}",
        "collation_connection": f"'{MYSQL_COLLATION}'",
        # A statement sees what was committed before it, as on PostgreSQL.
        "tx_isolation": "'READ-COMMITTED'",
        # Of what JSON_ARRAYAGG gives too, which it cuts off there: the tags of a post in full.
        "group_concat_max_len": "16777216",
    }
    return {
        "connect_args": {
            "async_creator_fn": mysql.connect,
            "autocommit": True,
            "charset": "utf8mb4",
            "connect_timeout": pool.connect_timeout,
            "init_command": "SET " + ", ".join(f"{name} = {value}" for name, value in told.items()),
        },
    }


def _sqlite(pool: PoolConfig) -> dict[str, Any]:
    del pool
    return {"connect_args": sqlite.CONNECT_ARGUMENTS}


_OPTIONS: dict[str, Callable[[PoolConfig], dict[str, Any]]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "sqlite": _sqlite,
}


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
