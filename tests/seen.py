"""A server whose figures a test reads, as Prometheus does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from service.config import Address
from service.server import Server
from tests.clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from service.config import Settings


class Seen(NamedTuple):
    """A server, a client of it, and its figures."""

    server: Server
    client: Client

    async def value(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None when there are none."""
        page = (await self.server.metrics()).decode()
        found = [
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


@asynccontextmanager
async def serving(
    settings: Settings,
    url: str,
    credentials: grpc.ChannelCredentials | None = None,
    /,
    **changed: object,
) -> AsyncIterator[Seen]:
    """Starts a server with other settings where given, and yields it with a client."""
    server = Server(settings.model_copy(update=changed), url)
    async with (
        server.serving(Address("127.0.0.1", 0)) as port,
        Client(f"127.0.0.1:{port}", credentials) as client,
    ):
        yield Seen(server, client)
