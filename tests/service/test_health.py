"""grpc.health.v1, which follows the database with some patience."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import users_pb2 as pb
from grpc_health.v1 import health_pb2
from sqlalchemy import make_url

from service import health
from service.server import SERVICES
from tests.clients import refusal_of
from tests.differences import Difference, differs
from tests.onlookers import looking_on
from tests.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients import Client
    from tests.conftest import Serve
    from tests.engines import Engine
    from tests.service.conftest import LogOf

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DOWN = (grpc.StatusCode.UNAVAILABLE, "byline/DATABASE_DOWN", ("", ""))


class Watching:
    """What a load balancer sees of a service's health, from first to last."""

    def __init__(self, client: Client, service: str = "") -> None:
        self.seen: list[int] = []
        request = health_pb2.HealthCheckRequest(service=service)
        self._call = client.health.Watch(request, timeout=PATIENCE)

    async def until(self, expected: int) -> None:
        """Waits for the health to become what is expected."""
        while self.seen[-1:] != [expected]:
            self.seen.append((await self._call.read()).status)


# MariaDB has a user of the database's name, who alone uses it.
LEAVE = {
    "postgresql": (
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    ),
    "mysql": ("ALTER USER {name}@localhost ACCOUNT LOCK", "KILL USER {name}@localhost"),
}
COME_BACK = {
    "postgresql": ("ALTER DATABASE {name} ALLOW_CONNECTIONS true",),
    "mysql": ("ALTER USER {name}@localhost ACCOUNT UNLOCK",),
}


@pytest.fixture
async def leaving_url(engine: Engine, database_url: str) -> AsyncIterator[str]:
    """The URL of a database that can be `away`."""
    if engine.name != "mariadb":
        yield database_url
        return
    url = make_url(database_url)
    async with looking_on(database_url) as onlooker:
        await onlooker.execute(f"CREATE USER {url.database}@localhost")
        await onlooker.execute(f"GRANT ALL ON {url.database}.* TO {url.database}@localhost")
        yield url.set(username=url.database).render_as_string(hide_password=False)
        await onlooker.execute(f"DROP USER {url.database}@localhost")


@asynccontextmanager
async def away(engine: Engine, url: str) -> AsyncIterator[None]:
    """Takes a database away while the block lasts: nobody gets in, and whoever is in gets out."""
    name = make_url(url).database
    async with looking_on(engine.url) as onlooker:
        for statement in LEAVE[onlooker.kind]:
            await onlooker.execute(statement.format(name=name))
        yield
        for statement in COME_BACK[onlooker.kind]:
            await onlooker.execute(statement.format(name=name))


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_each_service_serves_while_the_database_answers(client: Client, service: str) -> None:
    await Watching(client, service).until(SERVING)
    answer = await client.health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == SERVING


async def test_a_service_that_is_not_there_has_no_health(client: Client) -> None:
    request = health_pb2.HealthCheckRequest(service="byline.v1.Nobody")
    assert (await refusal_of(client.health.Check(request))).code is grpc.StatusCode.NOT_FOUND


@differs(Difference.NO_SERVER)
@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_goes_and_comes_with_the_database(
    serve: Serve, engine: Engine, leaving_url: str, service: str
) -> None:
    async with serve(leaving_url, health_patience=0.1) as client:
        watching = Watching(client, service)
        await watching.until(SERVING)
        async with away(engine, leaving_url):
            await watching.until(NOT_SERVING)
            refusal = await refusal_of(client.users.CountUsers(pb.CountUsersRequest()))
            assert refusal.what == DOWN
            assert refusal.retry_after
        await watching.until(SERVING)
        await client.users.CountUsers(pb.CountUsersRequest())
    # It may not have been there yet when the watch began.
    assert watching.seen[-3:] == [SERVING, NOT_SERVING, SERVING]


@differs(Difference.NO_SERVER)
async def test_a_database_that_is_soon_back_is_not_noticed(
    serve: Serve, engine: Engine, leaving_url: str, log_of: LogOf
) -> None:
    lines = log_of(health)
    async with serve(leaving_url, health_patience=60) as client:
        watching = Watching(client)
        await watching.until(SERVING)
        async with away(engine, leaving_url):
            await until(lambda: len([line for line in lines if "error" in line]) >= 5)
            answer = await client.health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == SERVING
        await client.users.CountUsers(pb.CountUsersRequest())
        answer = await client.health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == SERVING
    changes = [line["serving"] for line in lines if "serving" in line]
    assert changes == [True]
