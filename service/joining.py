"""The pages of several workers as one page, so that one port shows all of them.

Each worker has its own pages, at a Unix socket, and the supervisor asks all of them whenever it is
asked. Each figure gets the worker's number for a label. The figures of a worker that has died start
again from nothing, as those of a server that was restarted do, which Prometheus' `rate` and
`increase` know. The files that prometheus_client's own way shares between processes would keep the
counts of the dead, their connections in use and waiting callers among them, and leave out what is
not counted in its own instruments, the figures of a process among them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from service.http import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prometheus_client import Metric

    from service.http import Answer


class Workers:
    """What several workers show.

    Args:
        sockets: where each has its pages, by its number.
    """

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._sockets = sockets

    async def metrics(self) -> bytes:
        """Returns the metrics of all workers that answer, each with a label `worker`."""
        registry = CollectorRegistry()
        registry.register(_Joined(await self._fetch("/metrics")))
        return generate_latest(registry)

    async def is_ready(self) -> bool:
        """Tells whether calls are to be sent here: any of the workers may get them."""
        found = await self._fetch("/readyz")
        return any(each is not None and each.status is HTTPStatus.OK for each in found)

    async def _fetch(self, path: str) -> list[Answer | None]:
        return await asyncio.gather(*(fetch(each, path) for each in self._sockets))


class _Joined:
    """The metrics of all workers."""

    def __init__(self, answers: Sequence[Answer | None]) -> None:
        self._answers = answers

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "byline_worker_up", "1 for a worker that tells its metrics, and 0", labels=("worker",)
        )
        families: dict[str, Metric] = {}
        for number, answer in enumerate(self._answers):
            up.add_metric((str(number),), int(answer is not None))
            for family in text_string_to_metric_families(answer.body.decode() if answer else ""):
                joined = families.setdefault(family.name, family)
                samples = [
                    each._replace(labels={"worker": str(number), **each.labels})
                    for each in family.samples
                ]
                if joined is family:
                    joined.samples = samples
                else:
                    joined.samples += samples
        yield up
        yield from families.values()
