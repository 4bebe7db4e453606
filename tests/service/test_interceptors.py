"""What every RPC passes through: request ids, the access log, deadlines, retries, cancellation."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import resources_pb2
from byline.v1 import users_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2

from service import logs
from service.admission import Admission
from service.calls import Call
from service.config import Settings
from service.errors import Overloaded
from service.idempotency import Idempotency
from service.interceptors import Limits, Pipeline
from service.passwords import Passwords
from service.plans import Explainer
from storage.database import Database
from storage.errors import Contention, DatabaseDown, NotFound
from tests import factories
from tests.clients import Client, Refusal, outcome_of, refusal_of
from tests.onlookers import locked_user, until_nobody_waits, until_waiting_for_a_lock
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from structlog.typing import EventDict

    from tests.conftest import GiveUpAfter, Serve
    from tests.service.conftest import LogOf

Code = grpc.StatusCode
# What no test waits for; one that does has failed.
LONG = 60.0
# Nobody listens there: port 1 is for tcpmux.
NOWHERE = "postgresql+asyncpg://byline@127.0.0.1:1/byline"
NOBODY = pb.GetUserRequest(id=7)


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


@pytest.fixture(autouse=True)
def lines(log_of: LogOf) -> list[EventDict]:
    """The lines of the access log."""
    return log_of(logs)


@asynccontextmanager
async def scripted(
    answer: Callable[[], Awaitable[None]], limits: Limits | None = None
) -> AsyncIterator[Client]:
    """A client of a server whose CountUsers does as it is told and then answers."""

    async def count_users(_: pb.CountUsersRequest, __: object) -> pb.CountUsersResponse:
        await answer()
        return pb.CountUsersResponse()

    method = grpc.unary_unary_rpc_method_handler(
        count_users,
        request_deserializer=pb.CountUsersRequest.FromString,
        response_serializer=pb.CountUsersResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("byline.v1.UserService", {"CountUsers": method})
    passwords = Passwords(time_cost=1, memory_kib=8, parallelism=1, threads=1, queue=1)
    # Its one method takes no request id.
    database = Database(NOWHERE)
    idempotency = Idempotency(database, passwords, None)
    admission = Admission(Settings(_env_file=None))
    pipeline = Pipeline(limits or Limits(slow=0), idempotency, admission, Explainer(database))
    server = grpc.aio.server(interceptors=[pipeline])
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}") as client:
        yield client
    await server.stop(0)
    passwords.close()


class Script:
    """Raises what it is given, one after the other, and then nothing; counts its calls."""

    def __init__(self, *errors: BaseException) -> None:
        self.calls = 0
        self._errors = iter(errors)

    async def __call__(self) -> None:
        self.calls += 1
        for error in self._errors:
            raise error


def calls_there() -> int:
    """How many calls are in memory, whether anybody can reach them or not."""
    return sum(isinstance(each, Call) for each in gc.get_objects())


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# Request ids and the access log


@pytest.mark.parametrize("given", ["abc", "with spaces, and ~", "x" * 128])
async def test_a_request_id_comes_back_and_is_logged(
    client: Client, lines: list[EventDict], given: str
) -> None:
    metadata = (("x-request-id", given),)
    await factories.create_user(client)
    served = client.users.CountUsers(pb.CountUsersRequest(), metadata=metadata)
    await served
    refusal = await refusal_of(client.users.GetUser(NOBODY, metadata=metadata))
    assert dict(await served.trailing_metadata())["x-request-id"] == given
    assert refusal.trailers["x-request-id"] == given
    assert [line["request_id"] for line in lines[1:]] == [given, given]


@pytest.mark.parametrize("given", [None, "", "x" * 129])
async def test_a_request_id_is_made_where_none_is_given_that_can_be_used(
    client: Client, lines: list[EventDict], given: str | None
) -> None:
    metadata = () if given is None else (("x-request-id", given),)
    refusals = [await refusal_of(client.users.GetUser(NOBODY, metadata=metadata)) for _ in "12"]
    made = [refusal.trailers["x-request-id"] for refusal in refusals]
    assert [line["request_id"] for line in lines] == made
    assert len({*made, given, ""}) == len({given, ""}) + 2


async def test_a_call_is_one_line_that_says_what_it_used(
    client: Client, lines: list[EventDict]
) -> None:
    await factories.create_user(client, profile=pb.NewProfile())
    (line,) = lines
    assert line["method"] == "/byline.v1.UserService/CreateUser"
    assert (line["code"], line["log_level"], line["statements"]) == ("OK", "info", 2)
    assert line["ms"] >= line["pool_ms"] + line["database_ms"] > line["pool_ms"] > 0
    assert "error" not in line


@pytest.mark.parametrize(
    ("error", "code", "level"),
    [
        (NotFound("user", 7), "NOT_FOUND", "info"),
        (Overloaded(), "RESOURCE_EXHAUSTED", "warning"),
        (DatabaseDown(), "UNAVAILABLE", "warning"),
        (ValueError("a fault"), "INTERNAL", "error"),
    ],
)
async def test_a_failed_call_is_logged_for_whom_it_concerns(
    lines: list[EventDict], error: Exception, code: str, level: str
) -> None:
    async with scripted(Script(error)) as client:
        await refusal_of(count_users(client))
    (line,) = lines
    assert (line["code"], line["log_level"]) == (code, level)
    # The whole traceback of a fault of ours, and the kind of any other error.
    told = line.get("exc_info") if code == "INTERNAL" else line["error"]
    assert told == (error if code == "INTERNAL" else type(error).__name__)


@pytest.mark.parametrize("error", [Overloaded, Contention, partial(NotFound, "user", 7)])
async def test_a_failed_call_leaves_nothing_for_the_garbage_collector_to_find(
    error: Callable[[], Exception],
) -> None:
    async def fail() -> None:
        raise error()

    gc.collect()
    gc.disable()
    before = calls_there()
    try:
        async with scripted(fail, Limits(retries=0)) as client:
            await refusal_of(count_users(client))
            await until(lambda: calls_there() <= before)
    finally:
        gc.enable()


# Deadlines


@pytest.mark.parametrize(
    ("limits", "given"),
    [
        (Limits(default=0.05), None),
        (Limits(longest=0.05), LONG),
        (Limits(default=LONG, longest=0.05), None),
        # Before the caller's own deadline, which is when its own library gives up.
        (Limits(margin=LONG - 0.5), LONG),
    ],
)
async def test_a_call_that_takes_too_long_ends_with_a_status(
    limits: Limits, given: float | None
) -> None:
    async with scripted(forever, limits) as client:
        refusal = await refusal_of(count_users(client, given))
    assert refusal.what == (Code.DEADLINE_EXCEEDED, "byline/DEADLINE", ("", ""))


async def test_a_call_without_time_to_answer_in_is_not_begun() -> None:
    script = Script()
    async with scripted(script, Limits(margin=LONG)) as client:
        refusal = await refusal_of(count_users(client, LONG / 2))
    assert refusal.what == (Code.DEADLINE_EXCEEDED, "byline/DEADLINE", ("", ""))
    assert script.calls == 0


async def test_a_timeout_that_is_not_the_calls_own_is_a_fault() -> None:
    async with scripted(Script(TimeoutError())) as client:
        refusal = await refusal_of(count_users(client))
    assert (refusal.code, refusal.reason) == (Code.INTERNAL, "INTERNAL")


@pytest.fixture
def early(give_up_after: GiveUpAfter) -> None:
    give_up_after(1.5)


@pytest.mark.parametrize(
    ("limits", "otherwise"),
    [
        ({"lock_timeout": 0.1}, {}),
        # SQLite's statement has not begun.
        (
            {"default_deadline": LONG, "lock_timeout": 0, "statement_timeout": 1.0},
            {"postgresql": "STATEMENT", "mysql": "STATEMENT"},
        ),
        ({"default_deadline": LONG}, {}),
        ({"default_deadline": LONG, "lock_timeout": 0, "statement_timeout": 0}, {}),
    ],
)
@pytest.mark.usefixtures("early")
async def test_a_deadline_says_where_the_time_went(
    serve: Serve,
    db: Database,
    database_url: str,
    limits: dict[str, float],
    otherwise: dict[str, str],
) -> None:
    reason = otherwise.get(db.engine.dialect.name, "LOCK_WAIT")
    made = await factories.add_user(db)
    async with serve(database_url, pool_size=1, pool_overflow=0, **limits) as client:
        async with locked_user(database_url, made.id):
            refusal = await refusal_of(rename(client, made.id))
        assert refusal.what == (Code.DEADLINE_EXCEEDED, f"byline/{reason}", ("", ""))
        # The pool's only connection is fit for use.
        await rename(client, made.id)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"default_deadline": 0.5}, (Code.DEADLINE_EXCEEDED, None)),
        ({"pool_wait": 0.1}, (Code.UNAVAILABLE, 0.5)),
    ],
)
async def test_a_wait_for_a_connection_is_told_from_a_slow_database(
    serve: Serve,
    db: Database,
    database_url: str,
    limits: dict[str, float],
    told: tuple[Code, float | None],
) -> None:
    made = await factories.add_user(db)
    async with serve(database_url, pool_size=1, pool_overflow=0, **limits) as client:
        async with locked_user(database_url, made.id):
            call = client.users.UpdateUser(renaming(made.id), timeout=LONG)
            first = asyncio.ensure_future(outcome_of(call))
            await until_waiting_for_a_lock(database_url)
            refusal = await refusal_of(client.users.GetUser(NOBODY))
        assert not isinstance(await first, Refusal)
    code, retry_after = told
    assert refusal.what == (code, "byline/POOL_WAIT", ("", ""))
    assert refusal.retry_after == retry_after


# Retries


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_call_that_others_were_in_the_way_of_is_tried_again(times: int) -> None:
    script = Script(*[Contention()] * times)
    async with scripted(script, Limits(retries=3)) as client:
        await count_users(client)
    assert script.calls == times + 1


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_call_is_not_tried_again_for_ever(retries: int) -> None:
    script = Script(*[Contention()] * 100)
    async with scripted(script, Limits(retries=retries)) as client:
        refusal = await refusal_of(count_users(client))
    assert refusal.what == (Code.ABORTED, "byline/CONTENTION", ("", ""))
    assert refusal.retry_after
    assert script.calls == retries + 1


async def test_retries_end_with_the_deadline() -> None:
    script = Script(*[Contention()] * 10_000)
    async with scripted(script, Limits(default=0.1, retries=10_000)) as client:
        refusal = await refusal_of(count_users(client))
    assert refusal.what == (Code.DEADLINE_EXCEEDED, "byline/DEADLINE", ("", ""))


@pytest.mark.parametrize("error", [NotFound("user", 7), DatabaseDown(), ValueError()])
async def test_a_call_that_failed_for_another_reason_is_not_tried_again(error: Exception) -> None:
    script = Script(error)
    async with scripted(script) as client:
        await refusal_of(count_users(client))
    assert script.calls == 1


# Cancellation


async def test_a_part_of_a_call_that_is_cancelled_is_a_status_and_not_a_silence() -> None:
    async def cancelled() -> None:
        part = asyncio.ensure_future(forever())
        part.cancel()
        await part

    async with scripted(cancelled) as client:
        refusal = await refusal_of(count_users(client, LONG))
    assert (refusal.code, refusal.reason) == (Code.INTERNAL, "INTERNAL")
    assert str(refusal.trailers["x-request-id"]) in refusal.message


async def test_a_caller_who_leaves_stops_the_statement_and_frees_the_connection(
    serve: Serve, db: Database, database_url: str, lines: list[EventDict]
) -> None:
    made = await factories.add_user(db)
    async with (
        serve(database_url, pool_size=1, pool_overflow=0) as client,
        locked_user(database_url, made.id),
    ):
        call = client.users.UpdateUser(renaming(made.id))
        leaving = asyncio.ensure_future(outcome_of(call))
        await until_waiting_for_a_lock(database_url)
        call.cancel()
        await asyncio.wait([leaving])
        await until_nobody_waits(database_url)
        await until(lambda: bool(lines))
        assert [line["code"] for line in lines] == ["CANCELLED"]
        answer = await client.users.GetUser(pb.GetUserRequest(id=made.id), timeout=LONG)
        assert not answer.user.HasField("full_name")


# What is not Byline's own


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
async def test_health_and_reflection_go_their_own_way(
    client: Client, lines: list[EventDict], version: str
) -> None:
    check = client.health.Check(health_pb2.HealthCheckRequest())
    await check
    assert "x-request-id" not in dict(await check.trailing_metadata())

    names = await client.reflect(version)
    assert {"byline.v1.UserService", "byline.v1.ProfileService", "grpc.health.v1.Health"} <= names
    assert lines == []


@pytest.mark.parametrize("method", ["byline.v1.UserService/Nothing", "byline.v1.Nobody/Nothing"])
async def test_a_method_that_is_not_there_is_unimplemented(client: Client, method: str) -> None:
    assert (await refusal_of(client.raw(method, b""))).code is Code.UNIMPLEMENTED


async def count_users(client: Client, seconds: float | None = None) -> int:
    return (await client.users.CountUsers(pb.CountUsersRequest(), timeout=seconds)).count


def renaming(user_id: int) -> pb.UpdateUserRequest:
    return pb.UpdateUserRequest(
        user=resources_pb2.User(id=user_id, full_name="Ada"),
        update_mask=FieldMask(paths=["full_name"]),
    )


async def rename(client: Client, user_id: int) -> resources_pb2.User:
    return (await client.users.UpdateUser(renaming(user_id))).user
