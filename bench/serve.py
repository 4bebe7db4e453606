"""How the servers that Byline is compared to are run: as Byline is, with handlers of their own."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc.aio import ServicerContext

from service.config import Settings
from service.server import grpc_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Context = ServicerContext[Any, Any]


class Rpc(NamedTuple):
    """An RPC and what serves it.

    Args:
        method: its path.
        request: the type of its requests.
        handler: answers one.
    """

    method: str
    request: Any
    handler: Callable[[Any, Context], Awaitable[Any]]


async def serve(*rpcs: Rpc) -> None:
    """Serves on a free port, says which it is, and ends at SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc_server(Settings())
    services: defaultdict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = defaultdict(dict)
    for rpc in rpcs:
        _, service, method = rpc.method.split("/")
        services[service][method] = grpc.unary_unary_rpc_method_handler(
            rpc.handler,
            rpc.request.FromString,
            # Answers know how to write themselves.
            lambda answer: answer.SerializeToString(),
        )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(*each) for each in services.items()]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listens on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)
