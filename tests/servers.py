"""Servers to test on beside the embedded one: other PostgreSQLs, a pooler, and Prometheus."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from storage import embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Nothing in a throwaway cluster has to outlive the machine's power.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "400",
    # Its workers are a superuser's, whom the role that drops the databases of tests may not end.
    "autovacuum": "off",
    # Who waits looks for a deadlock once. A test that makes one has this long to complete it.
    "deadlock_timeout": "3s",
}
# Each kind of server, and how to get it. The embedded one is always there.
KINDS = {
    "postgresql-18": "uv sync",
    "postgresql-16": "uv run poe postgresql-16",
    "postgresql-15": "apt-get install postgresql-15",
    "pgbouncer": "apt-get install pgbouncer",
}
# What is no database, and how to get it.
OTHERS = {"prometheus": "apt-get install prometheus"}
# Where `poe postgresql-16` puts its wheel, which holds an archive.
DOWNLOADED = Path(__file__).parent.parent / ".servers"
# A pooler listens beside its server, so that the URL of the one is easily made that of the other.
PORT, POOLER_PORT = 5432, 6432
# Connections that the pooler opens: fewer than a pool of Byline's asks it for.
LENT = 3
PGBOUNCER = """
[databases]
* = host={sockets} port={server_port}
[pgbouncer]
pool_mode = transaction
default_pool_size = {lent}
max_client_conn = 400
listen_port = {port}
unix_socket_dir = {sockets}
auth_type = trust
auth_file = {files}/users
{more}
"""
PATIENCE = 60.0
POLL = 0.02


class Missing(Exception):
    """A server is not on this machine; the message says how to get it."""


def require(kind: str) -> None:
    """Skips the test without the kind of server, or fails it if `BYLINE_TEST_REQUIRE` names it."""
    try:
        programs(kind)
    except Missing as missing:
        if is_required(kind):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def is_required(kind: str) -> bool:
    """Tells whether `BYLINE_TEST_REQUIRE` names the kind of server."""
    required = os.environ.get("BYLINE_TEST_REQUIRE", "")  # noqa: TID251 - no setting of Byline's
    return kind in required.split(",")


@contextmanager
def running(kind: str, folder: Path) -> Iterator[str]:
    """Runs a server in an empty folder while the block lasts, and yields its URL.

    Raises:
        Missing: when the machine does not have it.
    """
    with ExitStack() as stack:
        if kind in {"postgresql-18", "pgbouncer"}:
            url = stack.enter_context(embedded.running(folder, settings=SETTINGS)).url
        else:
            url = stack.enter_context(_postgresql(programs(kind), folder))
        yield stack.enter_context(pooled(url, folder)) if kind == "pgbouncer" else url


@contextmanager
def pooled(url: str, folder: Path, more: str = "", *, port: int = POOLER_PORT) -> Iterator[str]:
    """Runs PgBouncer, in transaction mode, before a server, and yields the URL to reach it by.

    Args:
        url: the server's.
        folder: for the files of PgBouncer.
        more: lines of its configuration.
        port: its own.
    """
    program = programs("pgbouncer") / "pgbouncer"
    sockets = url.partition("host=")[2].partition("&")[0]
    files = folder / "pgbouncer"
    files.mkdir()
    (files / "users").write_text('"byline" ""\n')
    configuration = files / "pgbouncer.ini"
    configuration.write_text(
        PGBOUNCER.format(
            sockets=sockets, server_port=PORT, port=port, lent=LENT, files=files, more=more
        )
    )
    _give(files)
    listening = Path(sockets) / f".s.PGSQL.{port}"
    pooler = _unprivileged([program, configuration])
    with process(pooler, files / "log", listening.exists):
        yield url.replace(f"port={PORT}", f"port={port}")


def past_the_pooler(url: str) -> str:
    """Returns the URL of the server behind a pooler, or the same one where there is no pooler."""
    return url.replace(f"port={POOLER_PORT}", f"port={PORT}")


@contextmanager
def _postgresql(programs: Path, folder: Path) -> Iterator[str]:
    """Makes and runs a server whose programs are given, as `storage.embedded` does its own."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    _give(data)
    locale = ("--encoding=UTF8", "--locale=C.UTF-8")
    made = subprocess.run(  # noqa: S603 - a program of the server's
        _unprivileged(
            [programs / "initdb", "-D", data, "--username=postgres", "--auth=trust", *locale]
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    told = {"listen_addresses": "", "unix_socket_directories": data, **SETTINGS}
    options = [f"--{name}={value}" for name, value in told.items()]
    status = data / "postmaster.pid"
    server = _unprivileged([programs / "postgres", "-D", data, *options])
    ready = lambda: status.exists() and "ready" in status.read_text()  # noqa: E731 - one line
    with process(server, folder / "log", ready):
        asyncio.run(_make_role(f"postgresql://postgres@/postgres?host={data}&port={PORT}"))
        yield f"postgresql+asyncpg://byline@/byline?host={data}&port={PORT}"


async def _make_role(url: str) -> None:
    admin = await asyncpg.connect(url)
    await admin.execute("CREATE ROLE byline LOGIN CREATEDB")
    await admin.execute("CREATE DATABASE byline OWNER byline")
    await admin.close()


def programs(kind: str) -> Path:
    """Returns the folder of a server's programs.

    Raises:
        Missing: when the machine does not have it.
    """
    if kind == "postgresql-18":
        return embedded.binaries()
    if kind in {"pgbouncer", *OTHERS}:
        found = shutil.which(kind, path=os.defpath + ":/usr/sbin:/sbin")
        candidates = [Path(found).parent] if found else []
    else:
        for archive in (DOWNLOADED / kind).glob("*/*.tar.gz"):
            unpacked = archive.with_name("unpacked")
            if not unpacked.exists():
                _unpack(archive, unpacked)
        candidates = [
            Path("/usr/lib/postgresql") / kind.removeprefix("postgresql-") / "bin",
            *(DOWNLOADED / kind).glob("*/unpacked/*/bin"),
        ]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise Missing(f"no {kind} on this machine: {(KINDS | OTHERS)[kind]}")


def _unpack(archive: Path, where: Path) -> None:
    """Unpacks an archive beside its place and moves it there whole, whoever else does the same."""
    making = where.with_name(f"making-{os.getpid()}")
    with tarfile.open(archive) as tar:
        # The first releases of Python 3.11 know no filters.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(making)  # noqa: S202 - by the filter
    try:
        making.rename(where)
    except OSError:
        shutil.rmtree(making)


@contextmanager
def process(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """Runs a server until the block ends.

    Args:
        command: its program and flags.
        log: where what it says goes.
        ready: tells whether it serves.
    """
    with log.open("wb") as output:
        started = subprocess.Popen(  # noqa: S603 - a program of the server's
            command, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL)
        yield
    finally:
        # To all of them alike: end every session, then yourself.
        started.send_signal(signal.SIGINT)
        started.wait(PATIENCE)


def _unprivileged(command: Sequence[object]) -> list[str]:
    words = [str(word) for word in command]
    user = _user()
    return words if user is None else [sys.executable, "-m", "storage.unprivileged", user, *words]


def _give(folder: Path) -> None:
    """Makes a folder of root's that of the user who is to run a server in it."""
    user = _user()
    if user is not None:
        for each in (folder, *folder.iterdir()):
            shutil.chown(each, user)


def _user() -> str | None:
    """Who runs servers for root; None is who runs the tests."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall()}
    return next(name for name in embedded.UNPRIVILEGED_USERS if name in names)
