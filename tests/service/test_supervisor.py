"""Several processes on one port: how they share it, die, come back and end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import resources_pb2
from byline.v1 import users_pb2 as pb
from byline.v1.users_pb2_grpc import UserServiceStub

from tests import factories
from tests.differences import Difference, differs
from tests.onlookers import locked_user, until_gone, until_waiting_for_a_lock
from tests.processes import Byline, calling, is_running, serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POOL = ("--workers", 2, "--pool-size", 3, "--pool-overflow", 4)


@pytest.fixture(scope="module")
async def supervised(
    shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Byline]:
    """A `byline serve` with two workers."""
    folder = tmp_path_factory.mktemp("supervised")
    async with serving(folder, "--database-url", shared_url, *POOL) as byline:
        yield byline


async def test_the_total_of_all_pools_is_printed_and_logged(supervised: Byline) -> None:
    # Each worker's health check has a connection of its own.
    assert supervised.printed("pool +(.+)") == "up to 16 connections: 2 worker(s) of 8 each"
    await until(lambda: bool(supervised.logged("serving")))
    (line,) = supervised.logged("serving")
    assert (line["workers"], line["pool_per_worker"], line["pool_total"]) == (2, 8, 16)


async def test_all_workers_serve_on_the_one_port(supervised: Byline) -> None:
    async def both_have_answered() -> bool:
        await _call_on_a_fresh_connection(supervised)
        return {line["worker"] for line in supervised.logged("call")} == {0, 1}

    await until(both_have_answered)


async def test_a_worker_that_dies_is_started_again(supervised: Byline) -> None:
    (first, second) = _workers(supervised)
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(supervised.logged("worker started")) == 3)
    (died,) = supervised.logged("worker died")
    again = supervised.logged("worker started")[-1]
    assert (died["worker"], died["status"]) == (again["worker"], -signal.SIGKILL)
    assert is_running(again["pid"])
    assert is_running(second)
    for _ in range(10):
        await _call_on_a_fresh_connection(supervised)


@differs(Difference.ONE_WRITER)
async def test_a_stop_drains_all_workers(database_url: str, tmp_path: Path) -> None:
    flags = ("--database-url", database_url, "--lock-timeout", 0, *POOL)
    async with serving(tmp_path, *flags) as byline, calling(byline) as client:
        user = await factories.create_user(client)
        async with locked_user(database_url, user.id):
            update = asyncio.ensure_future(
                client.users.UpdateUser(
                    pb.UpdateUserRequest(user=resources_pb2.User(id=user.id, full_name="Renamed"))
                )
            )
            await until_waiting_for_a_lock(database_url)
            # A terminal's Ctrl-C is not the workers' to hear: the supervisor tells them.
            byline.ctrl_c()
            await until(lambda: len(byline.logged("draining")) == 2)
            assert not update.done()
        assert (await update).user.full_name == "Renamed"
        assert await byline.status() == 0
    assert not any(map(is_running, _workers(byline)))
    assert len(byline.logged("stopped")) == 3
    await until_gone(database_url)


async def test_no_worker_outlives_its_supervisor(database_url: str, tmp_path: Path) -> None:
    async with serving(tmp_path, "--database-url", database_url, *POOL) as byline:
        byline.kill()
        await until(lambda: not any(map(is_running, _workers(byline))))
        assert len(byline.logged("draining")) == 2
    await until_gone(database_url)


async def test_a_stop_does_not_wait_for_workers_that_are_still_starting(
    database_url: str, tmp_path: Path
) -> None:
    byline = Byline(tmp_path, "--database-url", database_url, *POOL)
    try:
        await until(lambda: len(_children(byline.pid)) == 2)
        children = _children(byline.pid)
        assert await byline.stop() == 0
        assert not any(map(is_running, children))
        # Only if they were quicker than the signal are all of them ready; such a one drains.
        assert len(byline.logged("worker started")) < 2 or byline.logged("draining")
    finally:
        byline.kill()


def _workers(byline: Byline) -> list[int]:
    return [line["pid"] for line in byline.logged("worker started")]


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _call_on_a_fresh_connection(byline: Byline) -> None:
    # Channels of one process share their connections otherwise, and one connection is one worker's.
    alone = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(byline.address, alone) as channel:
        await UserServiceStub(channel).CountUsers(pb.CountUsersRequest())
