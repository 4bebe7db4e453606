"""The batches of gRPC's operations: each comes to its end, whoever leaves."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined] # the stubs pass over it

from service import batches
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]

METHOD = "/byline.tests.Batches/Call"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many batches began, and how many went on after gRPC had told how they ended."""
    counts: Counter[str] = Counter()
    execute = cygrpc.execute_batch

    async def counted(call: object, operations: tuple[object, ...], loop: object) -> None:
        counts["begun"] += 1
        await execute(call, operations, loop)
        counts["ended"] += 1

    monkeypatch.setattr(cygrpc, "execute_batch", counted)
    batches.free_all()
    return counts


@asynccontextmanager
async def channel_to(handler: Handler) -> AsyncIterator[grpc.aio.Channel]:
    """Serves one method."""
    server = grpc.aio.server()
    _, service, method = METHOD.split("/")
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        method: grpc.unary_unary_rpc_method_handler(handler)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def _echo(request: bytes, _: object) -> bytes:
    return request


async def test_a_call_is_answered(seen: Counter[str]) -> None:
    async with channel_to(_echo) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        assert await asyncio.gather(*(call(b"%d" % n) for n in range(50))) == [
            b"%d" % n for n in range(50)
        ]
    assert seen["begun"] == seen["ended"] >= 200


async def test_the_batch_of_a_request_that_never_comes_ends_with_its_call(
    seen: Counter[str],
) -> None:
    async with channel_to(_echo) as channel:
        call: grpc.aio.StreamUnaryCall[bytes, bytes] = channel.stream_unary(METHOD)()
        await call.wait_for_connection()
        # The close of the call is waited for, and the request.
        await until(lambda: seen["begun"] >= 4)
        call.cancel()
        await until(lambda: seen["begun"] == seen["ended"])


async def test_the_batch_of_an_answer_that_nobody_waits_for_ends(seen: Counter[str]) -> None:
    called = asyncio.Event()

    async def handler(request: bytes, _: object) -> bytes:
        called.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return request

    async with channel_to(handler) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        call = method(b"")
        await called.wait()
        before = seen["begun"]
        call.cancel()
        await until(lambda: before < seen["begun"] == seen["ended"])


async def _fail(_: object, __: object, loop: asyncio.AbstractEventLoop) -> None:
    """Executes a batch that fails once it is waited for."""
    future = loop.create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError("failed"))
    await future


async def test_who_waits_for_a_batch_that_fails_is_told() -> None:
    with pytest.raises(ValueError, match="failed"):
        await batches.to_the_end(_fail)(None, (), asyncio.get_running_loop())


async def test_a_batch_that_fails_keeps_nothing_of_its_call() -> None:
    class Call:
        """What can be seen to go."""

    call = Call()
    is_there = weakref.ref(call)
    gc.disable()
    try:
        with suppress(ValueError):
            await batches.to_the_end(_fail)(call, (), asyncio.get_running_loop())
        del call
        # The loop knows of the future until this turn of it is over.
        await asyncio.sleep(0)
        assert is_there() is None
    finally:
        gc.enable()


async def test_who_waits_for_a_batch_that_cannot_begin_is_told() -> None:
    async def execute(*_: object) -> None:
        raise ValueError("no batch")

    with pytest.raises(ValueError, match="no batch"):
        await batches.to_the_end(execute)(None, (), asyncio.get_running_loop())


async def test_who_waits_for_a_batch_that_cannot_be_freed_is_told() -> None:
    running = asyncio.get_running_loop()

    async def execute(_: object, __: object, loop: asyncio.AbstractEventLoop) -> None:
        future = loop.create_future()
        running.call_soon(future.set_result, None)
        await future
        raise ValueError("not freed")

    with pytest.raises(ValueError, match="not freed"):
        await batches.to_the_end(execute)(None, (), running)


async def test_a_batch_that_another_thread_tells_of_ends_in_its_own_loop() -> None:
    ended: list[asyncio.AbstractEventLoop] = []

    async def execute(_: object, __: object, loop: asyncio.AbstractEventLoop) -> None:
        future = loop.create_future()
        tell = partial(loop.call_soon_threadsafe, future.set_result, None)
        threading.Thread(target=tell).start()
        await future
        ended.append(asyncio.get_running_loop())

    running = asyncio.get_running_loop()
    await batches.to_the_end(execute)(None, (), running)
    assert ended == [running]
