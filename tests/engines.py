"""What the tests run on: a server of each kind for the run, a database for each test."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import sqlite3
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import migrations
from tests import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

KINDS = ("postgresql", "sqlite", "mariadb")
TEMPLATE = "byline_template"
# Nothing in a throwaway server has to outlive the machine's power.
MARIADB_SETTINGS = {
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-doublewrite": "0",
    "innodb-buffer-pool-size": "256M",
    "max-connections": "400",
    # Its socket refuses at once who finds no room in the queue, in which those stay who left.
    "back-log": "4000",
    "skip-log-bin": "1",
    "skip-networking": "1",
}
MARIADB = "mariadbd"
# The URL of a MariaDB of one's own, whose user may make databases and end others' connections.
MYSQL_URL = "BYLINE_TEST_MYSQL_URL"
HOW_TO_GET_MARIADB = f"Debian has it: apt-get install mariadb-server; or set {MYSQL_URL}"
STARTS_WITHIN = 60.0


class Engine(NamedTuple):
    """A server of one kind, or what stands for it.

    Args:
        name: `postgresql`, `mariadb` or `sqlite`.
        url: of the server; the databases of tests are beside it.
        template: a migrated database with nothing in it, which `create` copies.
    """

    name: str
    url: str
    template: str

    async def create(self, database: str, *, migrated: bool) -> str:
        """Makes a database, with Byline's tables or without, and returns its URL."""
        await _CREATE[self.name](self, database, migrated)
        return self.url_of(database)

    async def drop(self, database: str) -> None:
        """Removes a database that `create` made."""
        await _DROP[self.name](self, database)

    @asynccontextmanager
    async def away(self, database: str) -> AsyncIterator[None]:
        """Takes a database away while the block lasts: whoever is in gets out, and nobody gets in.

        MariaDB's is empty when it is back.
        """
        await _TAKE_AWAY[self.name](self, database)
        yield
        await _BRING_BACK[self.name](self, database)

    def url_of(self, database: str) -> str:
        """Returns the URL of a database of this server."""
        if self.name == "sqlite":
            database = str(Path(self.url) / f"{database}.db")
            return f"sqlite+aiosqlite:///{database}"
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)


@contextmanager
def postgresql(folder: Path, kind: str) -> Iterator[Engine]:
    """Runs a PostgreSQL while the block lasts; the kinds are those of `tests.servers`."""
    folder.mkdir()
    with servers.running(kind, folder) as url:
        engine = Engine("postgresql", url, TEMPLATE)
        asyncio.run(_on_postgresql(url, f"CREATE DATABASE {TEMPLATE}"))
        migrations.up(servers.past_the_pooler(engine.url_of(TEMPLATE)))
        yield engine


@contextmanager
def sqlite(folder: Path) -> Iterator[Engine]:
    """Has a folder for SQLite's files while the block lasts."""
    folder.mkdir()
    engine = Engine("sqlite", str(folder), TEMPLATE)
    migrations.up(engine.url_of(TEMPLATE))
    with sqlite3.connect(folder / f"{TEMPLATE}.db") as template:
        # All of it into the one file, which is copied.
        template.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    template.close()
    yield engine


@contextmanager
def mariadb(folder: Path) -> Iterator[Engine]:
    """Runs a MariaDB of Debian's while the block lasts, reached by a socket in the folder."""
    with mariadb_server(folder, MARIADB_SETTINGS) as (url, _):
        engine = Engine("mariadb", url, TEMPLATE)
        asyncio.run(_on_mysql(engine.url, f"CREATE DATABASE {TEMPLATE}"))
        migrations.up(engine.url_of(TEMPLATE))
        yield engine


@contextmanager
def mariadb_server(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Runs the MariaDB of a folder while the block lasts, and yields its URL and its process.

    Args:
        folder: where its data is; made if missing.
        settings: of the server.
    """
    data, socket = folder / "data", folder / "socket"
    folder.mkdir(exist_ok=True)
    owner = _owner_of_mariadb(folder)
    if not data.exists():
        subprocess.run(  # noqa: S603 - a program of the machine's, no shell
            [  # noqa: S607 - wherever it is
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                f"--user={owner}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
        )
    told = [f"--{name}={value}" for name, value in settings.items()]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(  # noqa: S603 - a program of the machine's, no shell
            [
                _program(MARIADB) or MARIADB,
                "--no-defaults",
                f"--datadir={data}",
                f"--socket={socket}",
                # Servers that share one meet each other's temporary tables.
                f"--tmpdir={data}",
                f"--pid-file={folder / 'pid'}",
                f"--user={owner}",
                *told,
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
        ) as server,
    ):
        try:
            url = f"mysql+asyncmy://root@localhost/?unix_socket={socket}"
            _until_it_answers(url, server)
            yield url, server.pid
        finally:
            server.terminate()


@contextmanager
def given_mariadb(url: str) -> Iterator[Engine]:
    """Has the template on a MariaDB that runs already, while the block lasts."""
    engine = Engine("mariadb", url, TEMPLATE)
    asyncio.run(
        _on_mysql(url, f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}")
    )
    migrations.up(engine.url_of(TEMPLATE))
    yield engine
    asyncio.run(_on_mysql(url, f"DROP DATABASE {TEMPLATE}"))


def all_of(folder: Path, kind: str) -> Iterator[AbstractContextManager[Engine]]:
    """Returns a server of each kind that is on the machine, each to be entered."""
    yield postgresql(folder / "postgresql", kind)
    yield sqlite(folder / "sqlite")
    given = os.environ.get(MYSQL_URL)  # noqa: TID251 - no setting of Byline's
    if given:
        yield given_mariadb(given)
    elif has_mariadb():
        yield mariadb(folder / "mariadb")
    elif servers.is_required("mariadb"):
        pytest.exit(f"MariaDB is required. {HOW_TO_GET_MARIADB}", returncode=1)


def has_mariadb() -> bool:
    """Tells whether there is a MariaDB on the machine, or one that was given."""
    return MYSQL_URL in os.environ or _program(MARIADB) is not None  # noqa: TID251 - no setting of Byline's


def _program(name: str) -> str | None:
    # Debian has the server where the PATH of users does not go.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def _owner_of_mariadb(folder: Path) -> str:
    """Returns whom the server runs as: it refuses to be root unless told to be."""
    user = pwd.getpwuid(os.getuid()).pw_name
    if user == "root":
        folder.chmod(0o755)
    return user


def _until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            asyncio.run(_on_mysql(url, "SELECT 1"))
        except SQLAlchemyError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


async def _create_on_postgresql(engine: Engine, database: str, migrated: bool) -> None:  # noqa: FBT001 - of a table
    template = engine.template if migrated else "template0"
    await _on_postgresql(engine.url, f"CREATE DATABASE {database} TEMPLATE {template}")


async def _drop_on_postgresql(engine: Engine, database: str) -> None:
    await _on_postgresql(engine.url, f"DROP DATABASE {database} WITH (FORCE)")


async def _create_on_sqlite(engine: Engine, database: str, migrated: bool) -> None:  # noqa: FBT001 - of a table
    if migrated:
        folder = Path(engine.url)
        shutil.copy(folder / f"{engine.template}.db", folder / f"{database}.db")


async def _drop_on_sqlite(engine: Engine, database: str) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{engine.url}/{database}.db{ending}").unlink(missing_ok=True)  # noqa: ASYNC240 - quick


async def _create_on_mariadb(engine: Engine, database: str, migrated: bool) -> None:  # noqa: FBT001 - of a table
    await _on_mysql(engine.url, f"CREATE DATABASE {database}")
    if migrated:
        script = await _script_of(engine.url_of(engine.template))
        await _on_mysql(engine.url_of(database), "SET foreign_key_checks = 0", *script)


async def _drop_on_mariadb(engine: Engine, database: str) -> None:
    await _on_mysql(engine.url, f"DROP DATABASE {database}")


async def _shut_on_postgresql(engine: Engine, database: str) -> None:
    await _on_postgresql(engine.url, f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    await _on_postgresql(
        engine.url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        f" WHERE datname = '{database}'",
    )


async def _open_on_postgresql(engine: Engine, database: str) -> None:
    await _on_postgresql(engine.url, f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")


async def _take_from_mariadb(engine: Engine, database: str) -> None:
    await _drop_on_mariadb(engine, database)
    (rows,) = await _on_mysql(
        engine.url, f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
    )
    for row in rows:
        with suppress(DBAPIError):  # it has ended by itself
            await _on_mysql(engine.url, f"KILL {row[0]}")


async def _bring_back_to_mariadb(engine: Engine, database: str) -> None:
    await _create_on_mariadb(engine, database, migrated=True)


_CREATE = {
    "postgresql": _create_on_postgresql,
    "sqlite": _create_on_sqlite,
    "mariadb": _create_on_mariadb,
}
_DROP = {"postgresql": _drop_on_postgresql, "sqlite": _drop_on_sqlite, "mariadb": _drop_on_mariadb}
_TAKE_AWAY = {"postgresql": _shut_on_postgresql, "mariadb": _take_from_mariadb}
_BRING_BACK = {"postgresql": _open_on_postgresql, "mariadb": _bring_back_to_mariadb}
_scripts: dict[str, list[str]] = {}


async def _script_of(url: str) -> list[str]:
    """Returns the statements that make a database like this one, asked once."""
    if url not in _scripts:
        (tables,), (triggers,) = await asyncio.gather(
            _on_mysql(url, "SHOW TABLES"), _on_mysql(url, "SHOW TRIGGERS")
        )
        made = await _on_mysql(url, *(f"SHOW CREATE TABLE {row[0]}" for row in tables))
        script = [rows[0][1] for rows in made]
        script.append(f"INSERT INTO alembic_version VALUES ('{await _version(url)}')")
        script += [
            f"CREATE TRIGGER {name} {moment} {event} ON {table} FOR EACH ROW {body}"
            for name, event, table, body, moment, *_ in triggers
        ]
        _scripts[url] = script
    return _scripts[url]


async def _version(url: str) -> str:
    ((row,),) = await _on_mysql(url, "SELECT version_num FROM alembic_version")
    return str(row[0])


async def _on_postgresql(url: str, statement: str) -> None:
    connection = await asyncpg.connect(servers.past_the_pooler(url).replace("+asyncpg", ""))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _on_mysql(url: str, *statements: str) -> list[Sequence[Any]]:
    """Runs statements on one connection, and returns the rows of each."""
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            results = [await connection.exec_driver_sql(each) for each in statements]
            return [each.all() if each.returns_rows else [] for each in results]
    finally:
        await engine.dispose()
