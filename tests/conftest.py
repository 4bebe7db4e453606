"""What every test stands on: one throwaway PostgreSQL for the run, one database for each test."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import tempfile
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import pytest
import structlog
from sqlalchemy import make_url

import migrations
from service.cli import main
from service.config import Address, Settings
from service.loop import factory
from service.server import Server
from storage.database import Database
from tests import servers
from tests.clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    Command = Callable[..., "Ended"]
    Serve = Callable[..., AbstractAsyncContextManager[Client]]

TEMPLATE = "byline_template"
CLUSTER = pytest.StashKey[str]()

_numbers = itertools.count(1)


class Ended(NamedTuple):
    """How a command ended, and what it printed on standard output and on standard error."""

    status: int | str | None
    output: str
    complaint: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets the tests run on another server than the embedded one."""
    parser.addoption("--server", choices=servers.KINDS, default="postgresql-18")


def pytest_configure(config: pytest.Config) -> None:
    """Starts the cluster, once for all parallel workers, and migrates the template."""
    if hasattr(config, "workerinput"):
        config.stash[CLUSTER] = config.workerinput["cluster"]
        return
    stack = ExitStack()
    config.add_cleanup(stack.close)
    folder = Path(tempfile.mkdtemp(prefix="byline-tests-"))
    stack.callback(shutil.rmtree, folder)
    url = stack.enter_context(servers.running(config.getoption("server"), folder))
    config.stash[CLUSTER] = url
    asyncio.run(_administer(url, f"CREATE DATABASE {TEMPLATE}"))
    migrations.up(_named(servers.past_the_pooler(url), TEMPLATE))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    """Tells a parallel worker where the cluster is."""
    node.workerinput["cluster"] = node.config.stash[CLUSTER]


@pytest.hookimpl
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs the tests on the event loop that the service runs on."""
    return {"uvloop": factory}


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> str:
    """The URL of the run's cluster."""
    return pytestconfig.stash[CLUSTER]


@pytest.fixture
async def empty_url(cluster: str, worker_id: str) -> AsyncIterator[str]:
    """The URL of a database without tables, gone after the test."""
    async with _fresh(cluster, worker_id, "template0") as url:
        yield url


@pytest.fixture
async def database_url(cluster: str, worker_id: str) -> AsyncIterator[str]:
    """The URL of a migrated database with nothing in it, gone after the test."""
    async with _fresh(cluster, worker_id, TEMPLATE) as url:
        yield url


@pytest.fixture(scope="module")
async def shared_url(cluster: str, worker_id: str) -> AsyncIterator[str]:
    """The URL of a migrated database that all tests of a file share, with what they leave there."""
    async with _fresh(cluster, worker_id, TEMPLATE) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A migrated database with nothing in it."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Settings under which nothing is slower than a test needs it to be."""
    return Settings(
        _env_file=None,
        listen="127.0.0.1:0",
        health_interval=0.05,
        # Nothing is done behind a test's back.
        maintenance_interval=3600,
        drain_pause=0,
        hash_time_cost=1,
        hash_memory_kib=8,
        hash_parallelism=1,
        log_format="json",
    )


@pytest.fixture(scope="session")
def serve(settings: Settings) -> Serve:
    """Starts a server on a database, with other settings where given, and yields its client."""

    @asynccontextmanager
    async def serving(url: str, **changed: object) -> AsyncIterator[Client]:
        server = Server(settings.model_copy(update=changed), url)
        async with (
            server.serving(Address("127.0.0.1", 0)) as port,
            Client(f"127.0.0.1:{port}") as connected,
        ):
            yield connected

    return serving


@pytest.fixture
async def client(serve: Serve, database_url: str) -> AsyncIterator[Client]:
    """A client of a server on a database of its own."""
    async with serve(database_url) as connected:
        yield connected


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to be in, without a setting of the developer's in sight."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"BYLINE_{name.upper()}", raising=False)
    return tmp_path


@pytest.fixture
def byline(capsys: pytest.CaptureFixture[str], plain_environment: Path) -> Iterator[Command]:
    """Runs the command within the test's own process, where it does not serve."""
    del plain_environment
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: object) -> Ended:
        try:
            status: int | str | None = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
        return Ended(status, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # Its logs go to a stream that ends with the test.
    structlog.reset_defaults()


@asynccontextmanager
async def _fresh(cluster: str, worker: str, template: str) -> AsyncIterator[str]:
    name = f"test_{worker}_{next(_numbers)}"
    await _administer(cluster, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _named(cluster, name)
    await _administer(cluster, f"DROP DATABASE {name} WITH (FORCE)")


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(servers.past_the_pooler(url).replace("+asyncpg", ""))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
