"""What `deploy/` asks of Prometheus is answered: each query of the dashboard and of the alerts."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import grpc
import pytest
from byline.v1 import credits_pb2
from byline.v1 import users_pb2 as pb

from tests import factories, servers
from tests.clients import outcome_of
from tests.deploy.prometheus import FILES, watching
from tests.processes import calling, serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.clients import Client
    from tests.deploy.prometheus import Prometheus
    from tests.processes import Byline

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "byline.json"
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "30s", "$instance": ".*", "$method": ".*"}
# Stands in for what does not happen on a good day. Here it does.
INSTEAD = re.compile(r"\s+or vector\(0\)")
# What an alert's expression ends in.
COMPARISON = re.compile(r"\s(==|>|<)\s[\d.]+$")
# Two workers, who hash one password at a time, and have no time for a call with a near deadline.
OVERWORKED = (
    *("--workers", 2, "--hash-threads", 1, "--hash-queue", 0),
    *("--deadline-margin", 20),
)
SOON = 10
# Metrics that say nothing to look at.
UNSEEN = {"process_virtual_memory_bytes"}


@pytest.fixture(scope="module")
async def watched(
    shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Prometheus, Byline]]:
    """A Prometheus that watches a server of two workers, which is called all the time."""
    servers.require("prometheus")
    where = ("--database-url", shared_url, "--metrics-listen", "127.0.0.1:0")
    async with (
        serving(tmp_path_factory.mktemp("byline"), *where, *OVERWORKED) as byline,
        watching(_shown_at(byline), tmp_path_factory.mktemp("prometheus")) as prometheus,
        _busy(byline),
    ):
        yield prometheus, byline


def _queries() -> Iterator[tuple[str, str]]:
    """Yields the title of each panel of the dashboard, with each of its queries."""
    for panel in _panels():
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield panel["title"], INSTEAD.sub("", query)


async def test_every_query_of_the_dashboard_finds_data(
    watched: tuple[Prometheus, Byline],
) -> None:
    prometheus, _ = watched
    await _until_all_have_data(prometheus, {query: panel for panel, query in _queries()})


async def test_what_every_alert_looks_at_is_there(watched: tuple[Prometheus, Byline]) -> None:
    prometheus, _ = watched
    alerts = await prometheus.alerts()
    compared = {COMPARISON.sub("", query): name for name, query in alerts.items()}
    assert not set(compared) & set(alerts.values())
    figures = {INSTEAD.sub("", query): name for query, name in compared.items()}
    await _until_all_have_data(prometheus, figures)


async def test_the_dashboard_shows_every_metric(watched: tuple[Prometheus, Byline]) -> None:
    _, byline = watched
    url = f"http://{_shown_at(byline)}/metrics"
    page = await asyncio.to_thread(lambda: urlopen(url).read().decode())
    metrics = set(re.findall(r"^# TYPE ((?:grpc|byline|process)_\S+)", page, re.MULTILINE))
    queries = " ".join(query for _, query in _queries())
    assert {each for each in metrics if not re.search(rf"\b{each}", queries)} == UNSEEN


def test_the_rules_are_right_and_each_alert_fires_when_it_should() -> None:
    servers.require("prometheus")
    promtool = servers.programs("prometheus") / "promtool"
    for verb, file in (("check", "alerts.yaml"), ("test", "alerts_test.yaml")):
        done = subprocess.run(  # noqa: S603 - promtool
            [promtool, verb, "rules", file], cwd=FILES, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_panels_are_told_apart_and_lie_beside_each_other() -> None:
    panels = _panels()
    assert len({each["id"] for each in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        across, down = (range(at[start], at[start] + at[size]) for start, size in ("xw", "yh"))
        cells = {(x, y) for x in across for y in down}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


async def _until_all_have_data(prometheus: Prometheus, queries: dict[str, str]) -> None:
    """Waits until every query finds data; the message of the failure names those that do not."""
    missing = dict(queries)

    async def nothing_is_missing() -> bool:
        for query in list(missing):
            if await prometheus.has_data(query):
                del missing[query]
        return not missing

    assert missing
    try:
        async with asyncio.timeout(60):
            await until(nothing_is_missing)
    except TimeoutError:
        pytest.fail(f"no data: {missing}")


def _shown_at(byline: Byline) -> str:
    where: str = byline.logged("showing metrics")[0]["listen"]
    return where


@asynccontextmanager
async def _busy(byline: Byline) -> AsyncIterator[None]:
    """Calls a server while the block lasts, on a connection to each worker sooner or later."""

    async def call() -> None:
        while True:
            with suppress(grpc.aio.AioRpcError):
                async with calling(byline) as client:
                    await _a_bit_of_everything(client)

    calls = asyncio.create_task(call())
    yield
    calls.cancel()
    # What failed in it has left queries without data.
    await asyncio.gather(calls, return_exceptions=True)


async def _a_bit_of_everything(client: Client) -> None:
    """Makes calls of several kinds, some of which the server refuses or gives up."""
    ada, bob = await factories.create_users_with(client, 10, 0)
    for _ in range(5):
        await client.users.GetUser(pb.GetUserRequest(id=ada))
        await client.credits.Transfer(
            credits_pb2.TransferRequest(from_user_id=ada, to_user_id=bob, amount=1)
        )
    creations = (client.users.CreateUser(factories.create_user_request()) for _ in range(5))
    await asyncio.gather(*map(outcome_of, creations))
    await outcome_of(client.users.CountUsers(pb.CountUsersRequest(), timeout=SOON))
