"""What Prometheus reads of a server: that it can, and that its figures are of what was done."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from byline.v1 import credits_pb2
from byline.v1 import users_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families

from service.errors import Code
from service.metrics import Metrics
from tests import factories
from tests.clients import outcome_of, refusal_of
from tests.onlookers import locked_user, looking_on, until_waiting_for_a_lock
from tests.processes import until
from tests.seen import Seen, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.config import Settings

ROW = re.compile(r"^\| `((?:grpc|byline|process|python)_\w+)` \|", re.MULTILINE)


@pytest.fixture
async def seen(settings: Settings, database_url: str) -> AsyncIterator[Seen]:
    async with serving(settings, database_url) as made:
        yield made


async def test_calls_are_counted_by_method_and_code(seen: Seen) -> None:
    for _ in range(2):
        await seen.client.users.CountUsers(pb.CountUsersRequest())
    await refusal_of(seen.client.users.GetUser(pb.GetUserRequest(id=7)))
    labels = {"grpc_type": "unary", "grpc_service": "byline.v1.UserService"}
    for method, code, calls in (("CountUsers", "OK", 2), ("GetUser", "NOT_FOUND", 1)):
        of_method = {**labels, "grpc_method": method}
        assert await seen.value("grpc_server_started_total", **of_method) == calls
        for name in ("grpc_server_handled_total", "grpc_server_handling_seconds_count"):
            assert await seen.value(name, **of_method) == calls
            assert await seen.value(name, **of_method, grpc_code=code) == calls
        assert await seen.value("grpc_server_in_flight", **of_method) == 0
    assert (await seen.value("grpc_server_handling_seconds_sum") or 0) > 0


async def test_the_sizes_of_requests_and_of_responses_are_counted(seen: Seen) -> None:
    request = pb.GetUserRequest(id=7)
    await refusal_of(seen.client.users.GetUser(request))
    assert await seen.value("grpc_server_msg_received_bytes_sum") == request.ByteSize()
    # Who is refused gets a status and no message.
    assert await seen.value("grpc_server_msg_sent_bytes_count") == 0
    made = await seen.client.users.CreateUser(factories.create_user_request())
    assert await seen.value("grpc_server_msg_sent_bytes_sum") == made.ByteSize()


async def test_statements_are_counted_by_the_function_that_sent_them(seen: Seen) -> None:
    name = "byline_statement_seconds_count"
    made = await factories.create_user(seen.client)
    await seen.client.users.GetUser(pb.GetUserRequest(id=made.id))
    for function, times in (("users.create", 1), ("commit", 1), ("users.batch_get", 1)):
        assert await seen.value(name, function=function) == times
    assert await seen.value(name) == 3
    assert (await seen.value("byline_statement_seconds_sum") or 0) > 0
    # The pool has been asked twice, and never by whoever looks after the database's health.
    assert await seen.value("byline_pool_wait_seconds_count") == 2


async def test_who_waits_for_a_connection_is_seen(settings: Settings, database_url: str) -> None:
    async with serving(settings, database_url, pool_size=1, pool_overflow=0) as seen:
        made = await factories.create_user(seen.client)
        assert await seen.value("byline_pool_limit") == 1
        assert await seen.value("byline_pool_checked_out") == 0
        async with locked_user(database_url, made.id):
            deletion = seen.client.users.DeleteUser(pb.DeleteUserRequest(id=made.id))
            deleting = asyncio.ensure_future(deletion)
            await until_waiting_for_a_lock(database_url)
            counting = asyncio.ensure_future(
                seen.client.users.CountUsers(pb.CountUsersRequest(), timeout=60)
            )

            async def somebody_waits() -> bool:
                return await seen.value("grpc_server_in_flight") == 2

            await until(somebody_waits)
        await asyncio.gather(deleting, counting)
        assert await seen.value("byline_pool_waiting") == 0
        assert await seen.value("grpc_server_in_flight") == 0


async def test_who_is_taken_on_who_waits_and_who_is_not_taken_on_are_seen(
    settings: Settings, database_url: str
) -> None:
    async with serving(settings, database_url, max_writes=1, call_queue=1) as seen:
        made = await factories.create_user(seen.client)
        assert await seen.value("byline_calls_limit", access="write") == 1

        async def delete() -> object:
            return await outcome_of(seen.client.users.DeleteUser(pb.DeleteUserRequest(id=made.id)))

        async def has_left() -> bool:
            return await seen.value("byline_calls_shed_total", reason="gave_up") == 1

        async with locked_user(database_url, made.id):
            taken_on = asyncio.ensure_future(delete())
            await until_waiting_for_a_lock(database_url)
            others = [asyncio.ensure_future(delete()) for _ in range(2)]
            _, (waiting,) = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            for name in ("byline_calls_under_way", "byline_calls_queued"):
                assert await seen.value(name, access="write") == 1
                assert await seen.value(name) == 1
            # Before there is room for it.
            waiting.cancel()
            await until(has_left)
        await taken_on
        assert await seen.value("byline_calls_shed_total", reason="queue_full") == 1
        assert await seen.value("byline_calls_shed_total", access="write") == 2
        assert await seen.value("byline_calls_shed_total") == 2


async def test_transfers_that_were_made_together_are_one_batch(
    seen: Seen, database_url: str
) -> None:
    ada, bob = await factories.create_users_with(seen.client, 100, 0)
    request = credits_pb2.TransferRequest(from_user_id=ada, to_user_id=bob, amount=1)

    async def all_are_under_way() -> bool:
        return await seen.value("grpc_server_in_flight", grpc_method="Transfer") == 20

    async with looking_on(database_url) as onlooker, onlooker.transaction():
        await onlooker.lock("credit_accounts", user_id=ada)
        calls = [asyncio.ensure_future(seen.client.credits.Transfer(request)) for _ in range(20)]
        await until_waiting_for_a_lock(database_url)
        await until(all_are_under_way)
    await asyncio.gather(*calls)
    batches = await seen.value("byline_transfer_batch_size_count")
    assert await seen.value("byline_transfer_batch_size_sum") == 20
    assert batches is not None
    assert batches < 20


async def test_the_process_and_what_it_runs_are_told(seen: Seen) -> None:
    assert await seen.value("byline_build_info", version="0.1.0") == 1
    assert (await seen.value("process_resident_memory_bytes") or 0) > 2**20

    async def the_loop_is_looked_at() -> bool:
        return (await seen.value("byline_event_loop_lag_seconds_count") or 0) > 0

    await until(the_loop_is_looked_at)


async def test_a_server_is_ready_until_it_drains(settings: Settings, database_url: str) -> None:
    async with serving(settings, database_url) as seen:
        await until(seen.server.is_ready)
    assert not await seen.server.is_ready()


async def test_the_document_names_every_metric_and_no_other(seen: Seen) -> None:
    page = (await seen.server.metrics()).decode()
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(page)
    }
    document = Path(__file__).parents[2] / "docs" / "operations.md"
    assert set(ROW.findall(document.read_text())) == found | {"byline_worker_up"}


# What is counted without a server


async def test_a_number_at_a_bound_is_within_it() -> None:
    metrics = Metrics()
    method = metrics.method("/byline.v1.UserService/GetUser")
    for seconds in (0.001, 0.0011, 11):
        method.begin(0)
        method.end(Code.OK, seconds, 0)
    page = (await metrics.page()).decode()
    told = dict(re.findall(r'handling_seconds_bucket\{.*le="([^"]+)".*\} (\S+)', page))
    bounds = ("0.001", "0.0025", "10.0", "+Inf")
    assert [told[each] for each in bounds] == ["1.0", "2.0", "2.0", "3.0"]


def busy(methods: int) -> Metrics:
    """The metrics of a server whose methods have each been called, with two outcomes."""
    metrics = Metrics()
    for number in range(methods):
        method = metrics.method(f"/byline.v1.UserService/Get{number}")
        for code in (Code.OK, Code.NOT_FOUND):
            method.begin(number)
            method.end(code, 0.1, 0)
    return metrics


async def test_the_loop_turns_while_a_page_is_written_however_long() -> None:
    metrics = busy(methods=60)
    slices = list(metrics.slices())
    # A line takes 15 us.
    assert max(each.count(b"\n") for each in slices) <= 100
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await metrics.page()
    counting.cancel()
    assert turns >= len(slices) - 1


async def test_a_page_in_slices_is_one_that_prometheus_reads() -> None:
    page = (await busy(methods=60).page()).decode()
    names = re.findall("^# TYPE (\\S+)", page, re.MULTILINE)
    assert len(names) == len(set(names))
    counted = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "grpc_server_handled_total"
    ]
    assert counted == [1] * 120


async def test_calls_may_come_while_a_page_is_written() -> None:
    metrics = busy(methods=60)
    slices = metrics.slices()
    first = next(slices)
    metrics.method("/byline.v1.UserService/Other").begin(0)
    metrics.method("/byline.v1.UserService/Get0").end(Code.INTERNAL, 0.1, 0)
    assert b"INTERNAL" not in b"".join([first, *slices])
