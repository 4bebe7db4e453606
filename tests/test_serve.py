"""`byline serve` as its users meet it: a process with output, signals, an end, and a next start."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import resources_pb2
from byline.v1 import users_pb2 as pb
from grpc_health.v1 import health_pb2

from tests import factories
from tests.clients import Client, refusal_of
from tests.onlookers import locked_user, until_gone, until_waiting_for_a_lock
from tests.processes import Byline, calling, is_running, serving, start, until, working_in
from tests.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import Command

    Watch = grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

POOL_SIZE = 100
# In place of a library that the command loads.
LOADS_FOR_EVER = "import pathlib, time; pathlib.Path('loading').touch(); time.sleep(3600)"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a path so short that a socket fits in."""
    path = Path(tempfile.mkdtemp(prefix="byline-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Byline]:
    """A `byline serve` on an embedded server, which all tests that only look at it share."""
    with tempfile.TemporaryDirectory(prefix="byline-") as path:
        async with serving(Path(path), "--data-dir", "data", "--pool-size", POOL_SIZE) as byline:
            yield byline


async def test_it_says_where_it_listens_and_where_its_data_is(served: Byline) -> None:
    data = Path(served.printed(r"data +(.+)"))
    assert data.name == "data"
    assert data.is_absolute()
    assert (data / "postgres" / "PG_VERSION").exists()
    async with calling(served) as client:
        await _turns(client.health.Watch(health_pb2.HealthCheckRequest()), SERVING)


async def test_it_says_that_it_is_open(served: Byline) -> None:
    said = "everybody on this machine, without authentication, without TLS"
    assert served.printed(r"open to +(.+)") == said
    (line,) = served.logged("serving")
    assert line["open_to"] == said


async def test_it_says_how_to_reach_its_database(served: Byline) -> None:
    async with connected(served.printed(r"psql '(.+)'")) as connection:
        assert await connection.fetchval("SELECT count(*) FROM users") is not None
        revision = await connection.fetchval("SELECT version_num FROM alembic_version")
        allowed = int(await connection.fetchval("SHOW max_connections"))
    assert revision == served.printed(r"schema +(.+)")
    # The server that Byline starts has room for the pool that Byline is told to have.
    assert allowed > int(served.printed(r"pool +up to (\d+) connections")) > POOL_SIZE


async def test_the_buf_curl_line_that_it_prints_makes_a_user(
    served: Byline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    line = served.printed(r"(buf curl .+)")
    # Where no .proto file is near: the schema comes by reflection.
    answer = await asyncio.to_thread(_run, line, tmp_path)
    made = json.loads(answer)["user"]
    assert made["email"] == "ada@example.com"
    async with calling(served) as client:
        found = await client.users.GetUser(pb.GetUserRequest(username="ada"))
    assert found.user.id == int(made["id"])


async def test_the_grpcurl_line_that_it_prints_makes_the_same_call(served: Byline) -> None:
    program, plain, flag, request, address, method = shlex.split(
        served.printed(r"(grpcurl .+)").strip()
    )
    assert (program, plain, flag) == ("grpcurl", "-plaintext", "-d")
    assert address == served.address
    buf = shlex.split(served.printed(r"(buf curl .+)"))
    assert request in buf
    assert f"http://{address}/{method}" in buf


def test_data_that_another_byline_uses_is_refused_in_one_line(
    served: Byline, byline: Command
) -> None:
    data = served.printed(r"data +(.+)")
    ended = byline("serve", "--listen", "127.0.0.1:0", "--data-dir", data)
    assert (ended.status, ended.output) == (1, "")
    assert ended.complaint == f"byline: another Byline uses the data in {data}\n"


def test_a_port_that_another_byline_serves_on_is_refused_in_one_line(
    served: Byline, byline: Command
) -> None:
    for workers in (1, 2):
        ended = byline("serve", "--listen", served.address, "--workers", workers)
        assert (ended.status, ended.output) == (1, "")
        assert ended.complaint == (
            f"byline: cannot listen on {served.address}: Address already in use\n"
        )


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_that_an_ended_connection_holds_is_listened_on(
    folder: Path, workers: int
) -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host, port = listening.getsockname()
        caller = socket.create_connection((host, port))
        # Who ends a connection keeps it for a minute.
        listening.accept()[0].close()
        caller.close()
    flags = ("--database-url", f"sqlite+aiosqlite:///{folder}/byline.db", "--migrate")
    listen = ("--listen", f"{host}:{port}", "--workers", workers)
    async with serving(folder, *flags, *listen) as byline, calling(byline) as client:
        await client.users.CountUsers(pb.CountUsersRequest())


def test_migrate_uses_the_server_that_runs(served: Byline, byline: Command) -> None:
    ended = byline("migrate", "status", "--data-dir", served.printed(r"data +(.+)"))
    assert (ended.status, ended.complaint) == (0, "")
    assert served.printed(r"(psql '.+')") in ended.output
    assert ended.output.endswith(": up to date\n")


async def test_each_start_finds_the_data_however_the_last_one_ended(folder: Path) -> None:
    data = ("--data-dir", "data")
    async with serving(folder, *data) as byline:
        async with calling(byline) as client:
            user = await factories.create_user(client)

        def ctrl_c_has_ended_it() -> bool:
            if not byline.ended:
                byline.ctrl_c()
            return byline.ended

        # The impatient press it more than once.
        await until(ctrl_c_has_ended_it)
        assert await byline.status() == 0
    assert working_in(folder) == set()

    async with serving(folder, *data) as byline:
        async with calling(byline) as client:
            assert await _get(client, user) == user
        left = _postmaster(folder)
        byline.kill()
    assert is_running(left)

    async with serving(folder, *data) as byline:
        assert _postmaster(folder) == left
        async with calling(byline) as client:
            assert await _get(client, user) == user
        assert await byline.stop() == 0
    await until(lambda: working_in(folder) == set())


async def test_a_start_that_is_interrupted_leaves_nothing_behind_that_the_next_minds(
    folder: Path,
) -> None:
    stages = (folder / "data/postgres.making", folder / "data/postgres/postmaster.pid")
    for stage in stages:
        byline = Byline(folder, "--data-dir", "data")
        await until(stage.exists)
        byline.signal(signal.SIGTERM)
        # It may have come to serve before the signal came.
        assert await byline.status() in {130, 0}
        assert "Traceback" not in byline.complaint
        await until(lambda: working_in(folder) == set())


async def test_ctrl_c_while_the_command_loads_ends_it_without_a_word(folder: Path) -> None:
    (folder / "rich.py").write_text(LOADS_FOR_EVER)
    # A test whose own SIGINT is ignored, as in a shell's background, would hand that on.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{heeding}; from service import start; raise SystemExit(start.main())"
    output, log = folder / "output", folder / "log"
    process = start(sys.executable, "-c", command, folder=folder, output=output, log=log)
    await until((folder / "loading").exists)
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait) == 130
    assert log.read_text() == ""


async def test_two_that_migrate_one_database_at_once_both_serve(
    empty_url: str, tmp_path: Path
) -> None:
    flags = ("--database-url", empty_url, "--migrate")
    pair = [Byline(tmp_path, *flags), Byline(tmp_path, *flags)]
    try:
        for byline in pair:
            await byline.started()
            async with calling(byline) as client:
                await factories.create_user(client)
            assert "on your own server" in byline.output
        assert [await byline.stop() for byline in pair] == [0, 0]
    finally:
        for byline in pair:
            byline.kill()


async def test_a_drain_lets_load_balancers_and_calls_finish(
    database_url: str, tmp_path: Path
) -> None:
    flags = ("--database-url", database_url, "--drain-pause", 5, "--lock-timeout", 0)
    async with serving(tmp_path, *flags) as byline, calling(byline) as client:
        user = await factories.create_user(client)
        health = client.health.Watch(health_pb2.HealthCheckRequest())
        await _turns(health, SERVING)
        async with locked_user(database_url, user.id):
            update = asyncio.ensure_future(_rename(client, user))
            await until_waiting_for_a_lock(database_url)
            byline.signal(signal.SIGTERM)
            await _turns(health, NOT_SERVING)
            # A load balancer may still send what it had in hand.
            assert await _get(client, user) == user
            await until(partial(_takes_no_more_calls, byline))
            assert not update.done()
        assert (await update).user.full_name == "Renamed"
        assert await byline.status() == 0
    await until_gone(database_url)


async def test_calls_that_outlast_the_grace_are_cancelled_and_leave_nothing_open(
    database_url: str, tmp_path: Path
) -> None:
    flags = ("--database-url", database_url, "--drain-grace", 0.2)
    endless = ("--lock-timeout", 0, "--statement-timeout", 0)
    async with serving(tmp_path, *flags, *endless) as byline, calling(byline) as client:
        user = await factories.create_user(client)
        async with locked_user(database_url, user.id):
            update = asyncio.ensure_future(_rename(client, user))
            await until_waiting_for_a_lock(database_url)
            byline.signal(signal.SIGTERM)
            assert (await refusal_of(update)).code in {
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.UNAVAILABLE,
            }
            assert await byline.status() == 0
            # The lock is held to here: what still waited for it would be seen.
            await until_gone(database_url)


def _run(line: str, folder: Path) -> str:
    """Runs a line as a shell does, and returns what it prints."""
    done = subprocess.run(  # noqa: S603 - the line is the thing under test
        shlex.split(line), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _postmaster(folder: Path) -> int:
    return int((folder / "data/postgres/postmaster.pid").read_text().split()[0])


async def _get(client: Client, user: resources_pb2.User) -> resources_pb2.User:
    return (await client.users.GetUser(pb.GetUserRequest(id=user.id))).user


async def _rename(client: Client, user: resources_pb2.User) -> pb.UpdateUserResponse:
    return await client.users.UpdateUser(
        pb.UpdateUserRequest(user=resources_pb2.User(id=user.id, full_name="Renamed"))
    )


async def _turns(watch: Watch, status: int) -> None:
    """Waits until the health that is watched is so."""
    async for answer in watch:
        if answer.status == status:
            return
    pytest.fail("the watch ended")


async def _takes_no_more_calls(byline: Byline) -> bool:
    async with calling(byline) as client:
        try:
            await client.users.CountUsers(pb.CountUsersRequest())
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
    return False
