"""What a caller and the log are told of where the time of a call went."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from byline.v1 import users_pb2 as pb

from service import logs
from service.passwords import Passwords
from storage import users
from storage.errors import Contention
from tests import factories
from tests.clients import refusal_of
from tests.service.writes import WRITES, send

if TYPE_CHECKING:
    from structlog.typing import EventDict

    from tests.clients import Client
    from tests.conftest import Serve
    from tests.service.conftest import LogOf

PLEASE = (("x-byline-timing", "1"),)
PARTS = ["ms", "queue_ms", "pool_ms", "database_ms", "encoding_ms", "statements", "retries"]


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


@pytest.fixture
def lines(log_of: LogOf) -> list[EventDict]:
    """The lines of the access log."""
    return log_of(logs)


def read(trailer: object) -> dict[str, float]:
    pairs = (part.split("=") for part in str(trailer).split())
    return {name: float(value) for name, value in pairs}


async def timing_of(call: Any) -> dict[str, float]:  # noqa: ANN401 - of any method
    """What the trailers of a call that succeeds tell of its time."""
    await call
    return read(dict(await call.trailing_metadata())["x-byline-timing"])


async def test_who_asks_is_told_what_the_time_went_into(
    client: Client, lines: list[EventDict]
) -> None:
    request = factories.create_user_request(profile=pb.NewProfile())
    told = await timing_of(client.users.CreateUser(request, metadata=PLEASE))
    assert list(told) == PARTS
    assert (told["statements"], told["retries"]) == (2, 0)
    assert min(told["queue_ms"], told["pool_ms"], told["database_ms"], told["encoding_ms"]) > 0
    assert told["ms"] >= told["pool_ms"] + told["database_ms"] + told["encoding_ms"]
    (line,) = lines
    # The line is written when the trailers have been.
    assert {name: line[name] for name in PARTS[1:]} == {name: told[name] for name in PARTS[1:]}


async def test_who_is_refused_is_told_too(client: Client) -> None:
    refusal = await refusal_of(client.users.GetUser(pb.GetUserRequest(id=7), metadata=PLEASE))
    told = read(refusal.trailers["x-byline-timing"])
    assert (told["statements"], told["retries"]) == (1, 0)


@pytest.mark.parametrize("metadata", [(), (("x-byline-timing", "0"),)])
async def test_who_does_not_ask_is_told_nothing(
    client: Client, metadata: tuple[tuple[str, str], ...]
) -> None:
    call = client.users.CountUsers(pb.CountUsersRequest(), metadata=metadata)
    await call
    assert "x-byline-timing" not in dict(await call.trailing_metadata())


async def test_retries_are_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([Contention(), Contention()])
    count = users.count

    async def count_in_the_end(*arguments: Any) -> int:  # noqa: ANN401 - as the real one
        for failure in failures:
            raise failure
        return await count(*arguments)

    monkeypatch.setattr(users, "count", count_in_the_end)
    told = await timing_of(client.users.CountUsers(pb.CountUsersRequest(), metadata=PLEASE))
    assert (told["retries"], told["statements"]) == (2, 1)


async def test_a_password_that_waits_its_turn_is_queued(
    serve: Serve, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Passwords.hash

    async def hash_at_once(self: Passwords, password: str) -> str:
        return (await asyncio.gather(*(hashed(self, password) for _ in range(20))))[-1]

    monkeypatch.setattr(Passwords, "hash", hash_at_once)
    async with serve(database_url, hash_threads=1) as client:
        request = factories.create_user_request()
        told = await timing_of(client.users.CreateUser(request, metadata=PLEASE))
    assert told["queue_ms"] > 0


# Slow calls


@pytest.mark.parametrize(("slow_call", "level"), [(0, "info"), (1e-6, "warning"), (3600, "info")])
async def test_a_slow_call_is_a_warning_with_its_sql(
    serve: Serve, database_url: str, lines: list[EventDict], slow_call: float, level: str
) -> None:
    async with serve(database_url, slow_call=slow_call) as client:
        await client.users.GetUser(
            pb.GetUserRequest(id=(await factories.create_user(client, username="ada")).id)
        )
    assert [line["log_level"] for line in lines] == [level] * 2
    if level == "info":
        assert not any("sql" in line for line in lines)
        return
    (insert,), (select,) = (line["sql"] for line in lines)
    assert insert.startswith("INSERT INTO users")
    assert select.startswith("SELECT users.id")
    assert "ada" not in insert


async def test_the_sql_of_every_write_can_be_told_and_has_no_value(
    serve: Serve, database_url: str, lines: list[EventDict]
) -> None:
    async with serve(database_url, slow_call=1e-6) as client:
        for rpc, make in WRITES.items():
            await send(client, rpc, await make(client), uuid4())
    assert {line["method"].removeprefix("/byline.v1.") for line in lines} >= WRITES.keys()
    for line in lines:
        assert len(line["sql"]) == line["statements"] > 0
        for value in (factories.PASSWORD, "$argon2", "@example.com"):
            assert value not in str(line["sql"])
