"""What one port shows of several workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import suppress
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest
from byline.v1 import users_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import Byline, calling, serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What is shown does not come from the database.
ENGINES = ("sqlite",)
FLAGS = ("--workers", 2, "--metrics-listen", "127.0.0.1:0")


@pytest.fixture(scope="module")
async def supervised(
    shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Byline]:
    """A `byline serve` with two workers."""
    folder = tmp_path_factory.mktemp("supervised")
    async with serving(folder, "--database-url", shared_url, *FLAGS) as byline:
        yield byline


async def page(byline: Byline, path: str = "/metrics") -> tuple[int, str]:
    """A page's status and what it says."""
    (line,) = byline.logged("showing metrics")

    def get() -> tuple[int, str]:
        connection = HTTPConnection(line["listen"])
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    return await asyncio.to_thread(get)


async def values(byline: Byline, name: str) -> dict[str, float]:
    """A metric's values by worker."""
    _, text = await page(byline)
    return values_of(text, name)


def values_of(text: str, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {sample.labels["worker"]: sample.value for sample in found}


async def test_one_page_has_the_figures_of_all_workers(supervised: Byline) -> None:
    assert await values(supervised, "byline_worker_up") == {"0": 1, "1": 1}
    assert await values(supervised, "byline_build_info") == {"0": 1, "1": 1}
    # Two may start in one hundredth of a second, but not be alike in all of these as well.
    figures = [
        await values(supervised, f"process_{name}")
        for name in ("start_time_seconds", "cpu_seconds_total", "resident_memory_bytes")
    ]
    assert len({tuple(figure[worker] for figure in figures) for worker in ("0", "1")}) == 2


async def test_a_call_is_counted_once(supervised: Byline) -> None:
    async with calling(supervised) as client:
        await client.users.CountUsers(pb.CountUsersRequest())
    counted = await values(supervised, "grpc_server_handled_total")
    assert list(counted.values()) == [1]


async def test_each_metric_is_told_of_once_for_all_workers(supervised: Byline) -> None:
    _, text = await page(supervised)
    told = re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)
    assert len(told) == len(set(told)) > 20


async def test_a_worker_that_died_is_missed_and_shown_again_when_it_is_back(
    supervised: Byline,
) -> None:
    (first, *_) = supervised.logged("worker started")
    number = str(first["worker"])
    before = await values(supervised, "process_start_time_seconds")
    text = ""

    async def is_missed() -> bool:
        nonlocal text
        # One that came back before anybody looked goes again.
        *_, last = (
            each for each in supervised.logged("worker started") if str(each["worker"]) == number
        )
        with suppress(ProcessLookupError):
            os.kill(last["pid"], signal.SIGKILL)
        _, text = await page(supervised)
        return values_of(text, "byline_worker_up")[number] == 0

    async def is_back() -> bool:
        return (await values(supervised, "byline_worker_up"))[number] == 1

    await until(is_missed)
    other = values_of(text, "process_start_time_seconds")
    assert other == {key: value for key, value in before.items() if key != number}
    await until(is_back)
    after = await values(supervised, "process_start_time_seconds")
    assert after[number] > before[number]


async def test_a_port_with_a_worker_that_takes_calls_is_ready(supervised: Byline) -> None:
    async def is_ready() -> bool:
        return await page(supervised, "/readyz") == (200, "ok\n")

    await until(is_ready)
    assert await page(supervised, "/livez") == (200, "ok\n")
