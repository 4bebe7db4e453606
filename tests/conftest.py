"""What every test stands on: throwaway servers for the run, a database for each test."""

from __future__ import annotations

import itertools
import math
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import structlog

from service.cli import main
from service.config import Settings
from service.loop import factory
from storage import database
from storage.database import Database, PoolConfig
from storage.dialects import postgresql
from tests import differences, engines, onlookers, secrecy, seen, servers
from tests.emptying import empty_by
from tests.onlookers import looking_on

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.clients import Client
    from tests.onlookers import Onlooker

    Command = Callable[..., "Ended"]
    GiveUpAfter = Callable[[float], None]
    Open = Callable[..., Database]
    Serve = Callable[..., AbstractAsyncContextManager[Client]]

ON_EVERY_KIND = {"storage", "service"}
# How long a pool's callers wait where a test does not say: a machine that stalls fails none.
PATIENT = {"wait": 60.0, "connect_timeout": 60.0}
SERVERS = pytest.StashKey[list[engines.Engine]]()

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
    """Starts a server of each kind, once for all parallel workers."""
    if hasattr(config, "workerinput"):
        config.stash[SERVERS] = [engines.Engine(*each) for each in config.workerinput["servers"]]
        return
    stack = ExitStack()
    config.add_cleanup(stack.close)
    folder = Path(tempfile.mkdtemp(prefix="byline-tests-"))
    stack.callback(shutil.rmtree, folder)
    kind = config.getoption("server")
    config.stash[SERVERS] = [stack.enter_context(each) for each in engines.all_of(folder, kind)]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    """Tells a parallel worker where the servers are."""
    node.workerinput["servers"] = [tuple(each) for each in node.config.stash[SERVERS]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests of storage and of the service on every kind of database, but for what differs.

    Those of a folder that is named after a kind run on that; the others on PostgreSQL, or on the
    kinds that their file names in `ENGINES`.
    """
    if "engine" in metafunc.fixturenames:
        package = metafunc.definition.path.parent.name
        alone = package if package in engines.KINDS else "postgresql"
        kinds = engines.KINDS if package in ON_EVERY_KIND else (alone,)
        kinds = getattr(metafunc.module, "ENGINES", kinds)
        differ = metafunc.definition.get_closest_marker(differences.MARK)
        absent = set(differences.ON[differ.args[0]]) if differ else set()
        found = [
            each
            for each in metafunc.config.stash[SERVERS]
            if each.name in kinds and each.name not in absent
        ]
        metafunc.parametrize(
            "engine", found, indirect=True, scope="session", ids=[each.name for each in found]
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves what takes minutes to PostgreSQL; what takes less of the same runs everywhere."""
    elsewhere = [item for item in items if _is_long(item) and _engine_of(item) != "postgresql"]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("long") is not None


def _engine_of(item: pytest.Item) -> str:
    called = getattr(item, "callspec", None)
    found: engines.Engine | None = called.params.get("engine") if called else None
    return "postgresql" if found is None else found.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Has coverage look away where other tests show it the same: looking costs half as much again.

    What takes minutes has shorter runs, and the service has no code for a kind of database.
    """
    of_service = item.path.is_relative_to(Path(__file__).parent / "service")
    is_shown = _is_long(item) or (of_service and _engine_of(item) != "postgresql")
    if not is_shown or not item.config.pluginmanager.hasplugin("_cov"):
        yield
        return
    look = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(look)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a test in which a secret was logged, whatever else it is about."""
    report = yield
    secrecy.fail_if_leaked(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what differs by database, and on which the tests did not run and how to get them."""
    for difference, tests in differences.marked().items():
        on = " and ".join(differences.ON[difference])
        terminalreporter.write_line(f"not on {on}: {len(tests)} tests, as {difference!s}")
    if not engines.has_mariadb():
        terminalreporter.write_line(f"not run on MariaDB. {engines.HOW_TO_GET_MARIADB}")


@pytest.hookimpl
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs the tests on the event loop that the service runs on."""
    return {"uvloop": factory}


@pytest.fixture(scope="session", autouse=True)
def seen_turns() -> Iterator[None]:
    """Lets onlookers see who waits for a turn on SQLite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "turns", onlookers.turns)
        yield


@pytest.fixture(scope="session", autouse=True)
def never_late() -> Iterator[None]:
    """Has connections send what tests expect, though the machine stalled since the last time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgresql, "LATE", math.inf)
        yield


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> engines.Engine:
    """The server that the test's database is of."""
    started = request.config.stash[SERVERS]
    # A test that asks for its database as it runs is not known to need one before.
    found: engines.Engine = getattr(request, "param", started[0])
    return found


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> str:
    """The URL of the run's PostgreSQL."""
    return next(each.url for each in pytestconfig.stash[SERVERS] if each.name == "postgresql")


@pytest.fixture
async def empty_url(engine: engines.Engine, worker_id: str) -> AsyncIterator[str]:
    """The URL of a database without tables, gone after the test."""
    async with _fresh(engine, worker_id, migrated=False) as url:
        yield url


@pytest.fixture
async def database_url(engine: engines.Engine, worker_id: str) -> AsyncIterator[str]:
    """The URL of a migrated database with nothing in it, gone after the test."""
    async with _fresh(engine, worker_id) as url:
        yield url


@pytest.fixture(scope="module")
async def shared_url(engine: engines.Engine, worker_id: str) -> AsyncIterator[str]:
    """The URL of a migrated database that all tests of a file share, with what they leave there."""
    async with _fresh(engine, worker_id) as url:
        yield url


@pytest.fixture(scope="module")
async def emptier(shared_url: str) -> AsyncIterator[Onlooker]:
    """Who empties the database that all tests of a file share."""
    async with looking_on(shared_url) as onlooker:
        yield onlooker


@pytest.fixture
async def emptied_url(shared_url: str, emptier: Onlooker) -> str:
    """The URL of a database with nothing in it: one for the tests of a file, emptied for each."""
    await empty_by(emptier)
    return shared_url


@pytest.fixture
def db_url(request: pytest.FixtureRequest, engine: engines.Engine) -> str:
    """The URL of `db`. Tests beside a server have the server's; those of SQL have their file's."""
    del engine  # which the test is run on all the same
    is_of_sql = request.path.parent.name in {"storage", *engines.KINDS}
    url: str = request.getfixturevalue("emptied_url" if is_of_sql else "database_url")
    return url


@pytest.fixture
async def opened(db_url: str) -> AsyncIterator[Open]:
    """Opens a database with nothing in it, with a pool as the test wants it."""
    made: list[Database] = []

    def open_(**config: Any) -> Database:  # noqa: ANN401 - any field of PoolConfig
        made.append(Database(db_url, PoolConfig(**PATIENT | config)))
        return made[-1]

    yield open_
    for each in made:
        await each.close()


@pytest.fixture
async def db(opened: Open) -> Database:
    """A migrated database with nothing in it."""
    return opened()


@pytest.fixture
def give_up_after(monkeypatch: pytest.MonkeyPatch) -> GiveUpAfter:
    """Has the database give up in so many seconds, however slow the machine and far a deadline."""

    def give_up(seconds: float) -> None:
        for module in ("storage.usage", "storage.dialects.postgresql"):
            monkeypatch.setattr(f"{module}.margin", lambda left: left - seconds)

    return give_up


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
        connect_timeout=PATIENT["connect_timeout"],
        pool_wait=PATIENT["wait"],
        slow_call=0,
        # As many calls at once as a test makes.
        call_queue=100,
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
        async with seen.serving(settings, url, **changed) as made:
            yield made.client

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
        outcome = Ended(status, *capsys.readouterr())
        secrecy.check(outcome.complaint)
        return outcome

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # Its logs go to a stream that ends with the test.
    structlog.reset_defaults()


@asynccontextmanager
async def _fresh(
    engine: engines.Engine, worker: str, *, migrated: bool = True
) -> AsyncIterator[str]:
    name = f"test_{worker}_{next(_numbers)}"
    yield await engine.create(name, migrated=migrated)
    await engine.drop(name)
