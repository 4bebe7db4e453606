"""All wiring of one server process: services, interceptor, health, reflection, drain."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import grpc
import structlog
from byline.v1 import credits_pb2, posts_pb2, profiles_pb2, tags_pb2, users_pb2
from byline.v1.credits_pb2_grpc import add_CreditServiceServicer_to_server
from byline.v1.posts_pb2_grpc import add_PostServiceServicer_to_server
from byline.v1.profiles_pb2_grpc import add_ProfileServiceServicer_to_server
from byline.v1.tags_pb2_grpc import add_TagServiceServicer_to_server
from byline.v1.users_pb2_grpc import add_UserServiceServicer_to_server
from grpc_channelz.v1 import channelz
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service import access, channel, http
from service.admission import Admission
from service.batches import free_all
from service.credits import Credits
from service.health import Health
from service.idempotency import Idempotency
from service.interceptors import Limits, Pipeline
from service.loop import stop_on_signals, watch_lag
from service.maintenance import Maintenance, jobs
from service.memory import share_arena, spare
from service.metrics import Metrics
from service.passwords import Passwords
from service.plans import Explainer
from service.posts import Posts
from service.profiles import Profiles
from service.tags import Tags
from service.users import Users
from storage.database import Database, PoolConfig
from storage.gathering import Alone, Together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from service.config import Address, Settings
    from service.tracing import Tracing

SERVICES = (
    users_pb2.DESCRIPTOR.services_by_name["UserService"].full_name,
    profiles_pb2.DESCRIPTOR.services_by_name["ProfileService"].full_name,
    posts_pb2.DESCRIPTOR.services_by_name["PostService"].full_name,
    tags_pb2.DESCRIPTOR.services_by_name["TagService"].full_name,
    credits_pb2.DESCRIPTOR.services_by_name["CreditService"].full_name,
)
HEALTH = "grpc.health.v1.Health"
CHANNELZ = "grpc.channelz.v1.Channelz"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
# Seconds in which a call that was taken reaches the pipeline, and an answer the caller.
SETTLE = 0.1
# Seconds for which a drain waits for callers to cease, once they had the time to go elsewhere.
LULL = 5.0

log = structlog.get_logger("byline.server")


class Server:
    """One gRPC server on one database, inside one event loop.

    Args:
        settings: how it behaves.
        database_url: the database it serves from.

    Raises:
        FileError: when a file that says who may call cannot be taken.
    """

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._settings = settings
        self._database = Database(database_url, pool_config(settings))
        self._passwords = Passwords(
            time_cost=settings.hash_time_cost,
            memory_kib=settings.hash_memory_kib,
            parallelism=settings.hash_parallelism,
            threads=settings.hash_threads,
            queue=settings.hash_queue,
        )
        self._metrics = Metrics()
        self._tracing = _tracing(settings, self._database)
        admission = Admission(settings)
        key = settings.request_key
        self._pipeline = Pipeline(
            Limits(
                default=settings.default_deadline,
                longest=settings.max_deadline,
                margin=settings.deadline_margin,
                retries=settings.contention_retries,
                slow=settings.slow_call,
                answer_bytes=settings.max_answer_bytes,
            ),
            Idempotency(self._database, self._passwords, key.encode() if key else None),
            admission,
            Explainer(self._database),
            guard=access.guard(settings),
            metrics=self._metrics,
            tracing=self._tracing,
        )
        self._credentials = access.credentials(settings)
        self._server = grpc_server(settings, [self._pipeline])
        gathering = Together if settings.gather_transfers else Alone
        self._transfers = gathering(self._database)
        self._metrics.look_at(admission, self._database, self._transfers, self._passwords)
        self._maintenance = Maintenance(
            self._database, jobs(settings), settings.maintenance_interval
        )
        self._health = Health(
            self._database,
            SERVICES,
            interval=settings.health_interval,
            patience=settings.health_patience,
        )
        add_UserServiceServicer_to_server(Users(self._database, self._passwords), self._server)
        add_ProfileServiceServicer_to_server(Profiles(self._database), self._server)
        add_PostServiceServicer_to_server(Posts(self._database), self._server)
        add_TagServiceServicer_to_server(Tags(self._database), self._server)
        add_CreditServiceServicer_to_server(Credits(self._database, self._transfers), self._server)
        add_HealthServicer_to_server(self._health.servicer, self._server)
        channelz.add_channelz_servicer(self._server)
        names = (*SERVICES, HEALTH, CHANNELZ, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._server.add_generic_rpc_handlers((_reflection_v1(names),))

    async def metrics(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        return await self._metrics.page()

    async def is_ready(self) -> bool:
        """Tells whether calls are to be sent here."""
        return self._health.is_serving

    @asynccontextmanager
    async def serving(self, address: Address) -> AsyncIterator[int]:
        """Serves until the block ends, then drains: yields the port.

        Raises:
            RuntimeError: when the address cannot be listened on.
        """
        if self._credentials is None:
            port = self._server.add_insecure_port(str(address))
        else:
            port = self._server.add_secure_port(str(address), self._credentials)
        await self._server.start()
        background = [
            asyncio.create_task(self._health.watch()),
            asyncio.create_task(self._maintenance.keep_up()),
            asyncio.create_task(watch_lag(self._metrics.lag.add)),
        ]
        try:
            yield port
        finally:
            await self._drain()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._transfers.close()
            self._passwords.close()
            await self._database.close()
            if self._tracing is not None:
                await self._tracing.close()

    async def _drain(self) -> None:
        """Ends service without failing a call that can still be answered."""
        await self._health.drain()
        if self._settings.drain_pause:
            await asyncio.sleep(self._settings.drain_pause)
            # When gRPC stops, it cancels what it has received and not handed over.
            with suppress(TimeoutError):
                async with asyncio.timeout(LULL):
                    await self._lull()
        stopping = asyncio.create_task(self._server.stop(self._settings.drain_grace))
        quiet = asyncio.create_task(self._quiet())
        await asyncio.wait((stopping, quiet), return_when=asyncio.FIRST_COMPLETED)
        quiet.cancel()
        # What is still open then is watches of health, which never end by themselves.
        await self._server.stop(0)
        await stopping
        # Calls that were cancelled still have their connections to give back.
        await self._pipeline.idle()

    async def _lull(self) -> None:
        """Waits until no call has come for a moment."""
        before = -1
        while self._pipeline.taken != before:
            before = self._pipeline.taken
            await asyncio.sleep(SETTLE)

    async def _quiet(self) -> None:
        """Waits until no call is under way, and none was a moment ago."""
        while True:
            await self._pipeline.idle()
            await asyncio.sleep(SETTLE)
            if self._pipeline.is_idle:
                return


def grpc_server(
    settings: Settings, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> grpc.aio.Server:
    """Returns a server that serves nothing yet.

    Args:
        settings: how it behaves.
        interceptors: what every call passes through.
    """
    server = grpc.aio.server(interceptors=interceptors, options=channel.options(settings))
    # grpc.aio waits anew for every registered method before each call: with fifty of them, a fifth
    # of what a call costs that does nothing. They are found by name as well.
    server.add_registered_method_handlers = lambda *_: None  # type: ignore[method-assign] # to leave out
    return server


def _reflection_v1(names: Sequence[str]) -> grpc.GenericRpcHandler:
    """Serves reflection by its later name too: its messages are on the wire as those of v1alpha."""
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": method})


def _tracing(settings: Settings, database: Database) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    # What it stands on is an extra, and takes 0.3 s to import.
    from service.tracing import Tracing  # noqa: PLC0415

    return Tracing(settings.otlp_endpoint, settings.trace_ratio, database.engine.dialect.name)


def pool_config(settings: Settings) -> PoolConfig:
    """Returns the part of the settings that is the database's."""
    return PoolConfig(
        size=settings.pool_size,
        overflow=settings.pool_overflow,
        wait=settings.pool_wait,
        recycle=settings.pool_recycle,
        connect_timeout=settings.connect_timeout,
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    )


async def serve(
    settings: Settings,
    database_url: str,
    address: Address,
    seen_at: Address | Path | None,
    started: Callable[[int], None],
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        settings: how the server behaves.
        database_url: the database it serves from.
        address: where to listen.
        seen_at: where its metrics are, and whether it is ready: an address, a Unix socket, or None.
        started: called with the port once the server takes calls.
    """
    share_arena()
    free_all()
    stop = stop_on_signals()
    server = Server(settings, database_url)
    found = http.pages(server.metrics, server.is_ready)
    async with http.showing(found, seen_at), server.serving(address) as port:
        spare()
        started(port)
        await stop.wait()
        log.info("draining", pause=settings.drain_pause, grace=settings.drain_grace)
    log.info("stopped")
