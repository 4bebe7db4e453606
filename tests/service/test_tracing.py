"""The spans that a collector of OpenTelemetry gets of calls, and what is not in them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import pytest
from byline.v1 import credits_pb2
from byline.v1 import users_pb2 as pb
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service import logs
from tests import factories
from tests.clients import refusal_of
from tests.collectors import attributes_of, collecting
from tests.onlookers import locked_user
from tests.service.writes import WRITES, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients import Client
    from tests.collectors import Collector
    from tests.conftest import Serve
    from tests.engines import Engine
    from tests.service.conftest import LogOf

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01"), ("tracestate", "shop=7"))
NOT_SAMPLED = (("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-00"),)
GET_USER = "byline.v1.UserService/GetUser"


class Traced(NamedTuple):
    """A call's span, and those of its statements."""

    call: Span
    statements: list[Span]


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


def traced(collector: Collector, method: str) -> Traced:
    """The last call of a method, once its server has ended."""
    call = [span for span in collector.spans if span.name == method][-1]
    return Traced(call, [each for each in collector.spans if each.parent_span_id == call.span_id])


async def test_a_call_is_a_span_below_its_callers(
    serve: Serve, database_url: str, collector: Collector
) -> None:
    before = time.time_ns()
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        made = await factories.create_user(client)
        await client.users.GetUser(pb.GetUserRequest(id=made.id), metadata=SAMPLED)
    call, _ = traced(collector, GET_USER)
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert (call.kind, call.trace_state) == (Span.SPAN_KIND_SERVER, "shop=7")
    told = attributes_of(call)
    assert told["rpc.system.name"] == "grpc"
    assert told["rpc.method"] == GET_USER
    assert told["rpc.response.status_code"] == "OK"
    assert call.status.code == Status.STATUS_CODE_UNSET
    assert before < call.start_time_unix_nano < call.end_time_unix_nano < time.time_ns()


async def test_each_statement_is_a_span_below_its_calls(
    serve: Serve, database_url: str, collector: Collector, engine: Engine
) -> None:
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        await factories.create_user(client)
    call, (insert, commit) = traced(collector, "byline.v1.UserService/CreateUser")
    assert {span.trace_id for span in (insert, commit)} == {call.trace_id}
    assert (insert.name, commit.name) == ("users.create", "commit")
    assert insert.kind == Span.SPAN_KIND_CLIENT
    told = attributes_of(insert)
    assert told["db.system.name"] == engine.name
    assert told["db.operation.name"] == "INSERT"
    assert str(told["db.query.text"]).startswith("INSERT INTO users")
    assert attributes_of(commit)["db.query.text"] == "COMMIT"
    assert call.start_time_unix_nano <= insert.start_time_unix_nano < insert.end_time_unix_nano
    assert insert.end_time_unix_nano <= commit.start_time_unix_nano
    assert commit.end_time_unix_nano <= call.end_time_unix_nano


async def test_no_span_has_a_value(serve: Serve, database_url: str, collector: Collector) -> None:
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        for rpc, make in WRITES.items():
            await send(client, rpc, await make(client), uuid4())
        await client.users.ListUsers(pb.ListUsersRequest(filter=pb.UserFilter(query="Lovelace")))
        taken = factories.create_user_request(email="ada@example.com")
        await client.users.CreateUser(taken)
        await refusal_of(client.users.CreateUser(taken))
    names = {span.name for span in collector.spans}
    assert {f"byline.v1.{rpc}" for rpc in WRITES} <= names
    sent = "".join(str(request) for request in collector.requests)
    for value in ("@example.com", "Lovelace", factories.PASSWORD, "$argon2"):
        assert value not in sent


async def test_a_call_that_is_refused_is_no_fault_of_the_servers(
    serve: Serve, database_url: str, collector: Collector
) -> None:
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        await refusal_of(client.users.GetUser(pb.GetUserRequest(id=7)))
    call, (select,) = traced(collector, GET_USER)
    assert attributes_of(call)["rpc.response.status_code"] == "NOT_FOUND"
    assert attributes_of(call)["error.type"] == "NotFound"
    assert call.status.code == select.status.code == Status.STATUS_CODE_UNSET


async def test_a_statement_that_was_cut_short_is_a_fault(
    serve: Serve, database_url: str, collector: Collector
) -> None:
    async with serve(database_url) as client:
        made = await factories.create_user(client)
    changed = {"otlp_endpoint": collector.endpoint, "default_deadline": 0.5}
    async with serve(database_url, **changed) as client, locked_user(database_url, made.id):
        await refusal_of(client.users.DeleteUser(pb.DeleteUserRequest(id=made.id)))
    call, _ = traced(collector, "byline.v1.UserService/DeleteUser")
    assert call.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(call)["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


async def test_transfers_that_are_made_together_have_their_statements_each(
    serve: Serve, database_url: str, collector: Collector
) -> None:
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        ada, bob = await factories.create_users_with(client, 100, 0)
        request = credits_pb2.TransferRequest(from_user_id=ada, to_user_id=bob, amount=1)
        await asyncio.gather(*(client.credits.Transfer(request) for _ in range(20)))
    calls = [span for span in collector.spans if span.name == "byline.v1.CreditService/Transfer"]
    assert len(calls) == 20
    for call in calls:
        made = [span for span in collector.spans if span.parent_span_id == call.span_id]
        assert {span.trace_id for span in made} == {call.trace_id}
        # What is one statement has no COMMIT.
        assert (made[-1].name == "commit") == (len(made) > 1)
        statements = [span for span in made if span.name != "commit"]
        assert len(statements) == attributes_of(call)["byline.statements"]


@pytest.mark.parametrize(
    ("ratio", "metadata", "spans"),
    [(1.0, (), 2), (0.0, (), 0), (1.0, NOT_SAMPLED, 0), (0.0, SAMPLED, 2)],
)
async def test_the_caller_says_whether_a_call_is_traced_and_otherwise_the_ratio(  # noqa: PLR0913, PLR0917 - a case
    serve: Serve,
    database_url: str,
    collector: Collector,
    ratio: float,
    metadata: tuple[tuple[str, str], ...],
    spans: int,
) -> None:
    changed = {"otlp_endpoint": collector.endpoint, "trace_ratio": ratio}
    async with serve(database_url, **changed) as client:
        await client.users.CountUsers(pb.CountUsersRequest(), metadata=metadata)
    assert len(collector.spans) == spans


async def test_the_trailers_and_the_log_name_the_trace(
    serve: Serve, database_url: str, collector: Collector, log_of: LogOf
) -> None:
    lines = log_of(logs)
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        call = client.users.CountUsers(pb.CountUsersRequest())
        await call
        answered = dict(await call.trailing_metadata())["traceparent"]
        refusal = await refusal_of(client.users.GetUser(pb.GetUserRequest(id=7), metadata=SAMPLED))
    count, _ = traced(collector, "byline.v1.UserService/CountUsers")
    get, _ = traced(collector, GET_USER)
    assert str(answered).startswith(f"00-{count.trace_id.hex()}-{count.span_id.hex()}-")
    assert refusal.trailers["traceparent"] == f"00-{TRACE_ID}-{get.span_id.hex()}-01"
    assert [line["trace_id"] for line in lines] == [count.trace_id.hex(), TRACE_ID]


@pytest.mark.parametrize("parent", ["nonsense", f"00-{TRACE_ID}", f"00-{'0' * 32}-{SPAN_ID}-01"])
async def test_a_traceparent_that_says_nothing_is_passed_over(
    serve: Serve, database_url: str, collector: Collector, parent: str
) -> None:
    async with serve(database_url, otlp_endpoint=collector.endpoint) as client:
        await client.users.CountUsers(pb.CountUsersRequest(), metadata=(("traceparent", parent),))
    call, _ = traced(collector, "byline.v1.UserService/CountUsers")
    assert (call.parent_span_id, len(call.trace_id)) == (b"", 16)


async def test_a_collector_that_is_away_keeps_no_call_from_its_answer(
    serve: Serve, database_url: str
) -> None:
    # Nobody listens there: port 1 is for tcpmux.
    async with serve(database_url, otlp_endpoint="http://127.0.0.1:1") as client:
        assert (await client.users.CountUsers(pb.CountUsersRequest())).count == 0


# Without a collector


async def test_a_call_that_nobody_traces_names_no_trace(client: Client) -> None:
    call = client.users.CountUsers(pb.CountUsersRequest(), metadata=SAMPLED)
    await call
    assert "traceparent" not in dict(await call.trailing_metadata())


def test_a_server_without_traces_imports_nothing_for_them() -> None:
    script = (
        "import sys; from service.config import Settings; from service.server import Server\n"
        "import asyncio\n"
        "async def main():\n"
        "    Server(Settings(_env_file=None), 'sqlite+aiosqlite:///none.db')\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(  # noqa: S603 - a script of the test's own
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
