"""Load on a server, from a process of its own: so many calls in flight, for so long.

The process is this module run as a program. It reads an order a line, and writes what came of it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from pydantic import TypeAdapter

from bench.measurement import BenchError, Measurement, quantile
from bench.processes import cpu_seconds
from bench.traffic import Traffic  # noqa: TC001 - pydantic reads the annotations
from service.loop import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

# Seconds that an answer may take.
DEADLINE = 60.0
MILLI = 1e3


@dataclass(frozen=True, slots=True)
class Order:
    """What load to make.

    Args:
        address: of the server.
        server: its process.
        database: the process that began PostgreSQL's others.
        traffic: what is sent.
        in_flight: calls under way at once.
        seconds: how long calls are begun.
    """

    address: str
    server: int
    database: int
    traffic: Traffic
    in_flight: int
    seconds: float


_ORDER, _MEASUREMENT = TypeAdapter(Order), TypeAdapter(Measurement)


@dataclass(slots=True)
class _Seen:
    """What the calls came to."""

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class Loader:
    """A process that makes load."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, order: Order) -> Measurement:
        """Makes load, and returns what came of it.

        Raises:
            BenchError: when no call succeeds.
        """
        assert self._process.stdin  # noqa: S101 - told so where it is made
        assert self._process.stdout  # noqa: S101 - told so where it is made
        print(_ORDER.dump_json(order).decode(), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the process that makes load has ended: {self._process.wait()}")
        measured = _MEASUREMENT.validate_json(line)
        if not measured.transfers:
            raise BenchError(f"no call succeeded: {dict(measured.errors)}")
        return measured


@contextmanager
def loader() -> Iterator[Loader]:
    """Starts a process that makes load, and ends it with the block."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Loader(process)
        finally:
            process.terminate()


async def measure(order: Order) -> Measurement:
    """Calls a server, and returns what came of it."""
    requests, seen = order.traffic.ready(), _Seen()
    async with grpc.aio.insecure_channel(order.address) as channel:
        call: Call = channel.unary_unary(order.traffic.method)
        await channel.channel_ready()
        before = _cpu(order)
        started = time.perf_counter()

        async def keep_calling() -> None:
            while (begun := time.perf_counter()) < started + order.seconds:
                try:
                    await call(next(requests), timeout=DEADLINE)
                except grpc.aio.AioRpcError as error:
                    seen.errors[error.code().name] += 1
                else:
                    seen.latencies.append(time.perf_counter() - begun)

        await asyncio.gather(*(keep_calling() for _ in range(order.in_flight)))
        seconds = time.perf_counter() - started
        server, database, load = (
            after - then for after, then in zip(_cpu(order), before, strict=True)
        )
    ordered = sorted(seen.latencies) or [0.0]
    return Measurement(
        transfers=len(seen.latencies) * order.traffic.batch,
        seconds=seconds,
        p50=quantile(ordered, 0.5) * MILLI,
        p99=quantile(ordered, 0.99) * MILLI,
        errors=seen.errors,
        server=server,
        database=database,
        load=load,
    )


def _cpu(order: Order) -> tuple[float, float, float]:
    """The CPU time of the server, of the database and of this process."""
    return cpu_seconds(order.server), cpu_seconds(order.database), time.process_time()


async def _obey() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        measured = await measure(_ORDER.validate_json(line))
        print(_MEASUREMENT.dump_json(measured).decode(), flush=True)


if __name__ == "__main__":
    run(_obey())
