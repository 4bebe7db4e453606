"""Load on a server, from processes of its own, which send what was serialized beforehand.

A closed loop keeps so many calls in flight. An open loop begins calls when they are due, whether or
not others have been answered, and counts how long each took from when it was due: a server that
stalls is charged for all who would have called meanwhile.

A process is this module run as a program. It reads an order, says that it is ready, waits for a
line, and writes what came of it.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING
from uuid import uuid4

import grpc
from pydantic import TypeAdapter

from bench.measurement import MILLI, BenchError, Measurement
from bench.processes import cpu_seconds, resident
from service.loop import run
from service.memory import spare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

# Seconds that an answer may take, where nothing else is said.
DEADLINE = 60.0
# The wire type of a text, and the length of a UUID's.
TEXT, UUID_LENGTH = 2, 36


@dataclass(frozen=True, slots=True)
class Order:
    """What load to make.

    Args:
        address: of the server.
        method: the RPC, as `/package.Service/Method`.
        requests: the file that `save` made.
        in_flight: calls under way at once; of no account when a rate is given.
        seconds: how long calls are begun.
        rate: calls a second of an open loop, as if many callers made them who know nothing of one
            another; None for a closed loop.
        request_id: the number of the field that every request gets a UUID in; 0 for none.
        timeout: seconds after which a caller leaves.
    """

    address: str
    method: str
    requests: Path
    in_flight: int
    seconds: float
    rate: float | None = None
    request_id: int = 0
    timeout: float = DEADLINE


@dataclass(slots=True)
class Seen:
    """What the calls of one process came to."""

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[float] = field(default_factory=list)
    received: int = 0
    seconds: float = 0.0
    cpu: float = 0.0


_ORDER, _SEEN = TypeAdapter(Order), TypeAdapter(Seen)


def save(requests: Sequence[bytes], file: Path) -> None:
    """Writes serialized requests to a file, in the order in which they are to be sent."""
    file.write_bytes(b"\n".join(map(b64encode, requests)))


class Load:
    """Processes that make load together."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def measure(self, order: Order, server: int, database: int | None) -> Measurement:
        """Makes load, and returns what came of it.

        Args:
            order: what load; its calls are shared out among the processes.
            server: the process of the server.
            database: the process that began the database's others; None where there is none.

        Raises:
            BenchError: when no call succeeds.
        """
        share = min(len(self._processes), order.in_flight)
        mine = replace(
            order,
            in_flight=order.in_flight // share,
            rate=order.rate and order.rate / share,
        )
        at_work = self._processes[:share]
        for process in at_work:
            _tell(process, _ORDER.dump_json(mine).decode())
        for process in at_work:
            _told(process)

        def cpu() -> tuple[float, float]:
            return cpu_seconds(server), 0.0 if database is None else cpu_seconds(database)

        memory, before = resident(server), cpu()
        for process in at_work:
            _tell(process, "go")
        seen = [_SEEN.validate_json(_told(process)) for process in at_work]
        after = cpu()
        errors = sum((each.errors for each in seen), Counter[str]())
        # Of callers who leave early, all may have left.
        if order.timeout >= DEADLINE and not any(each.latencies for each in seen):
            raise BenchError(f"no call of {order.method} succeeded: {dict(errors)}")
        return Measurement(
            latencies=sorted(latency for each in seen for latency in each.latencies),
            errors=errors,
            failures=sorted(latency for each in seen for latency in each.failures),
            seconds=max(each.seconds for each in seen),
            received=sum(each.received for each in seen),
            server=after[0] - before[0],
            database=after[1] - before[1],
            load=sum(each.cpu for each in seen),
            memory=(memory, resident(server)),
        )


@contextmanager
def loading(processes: int = 1) -> Iterator[Load]:
    """Starts processes that make load, and ends them with the block."""
    with ExitStack() as stack:
        yield Load([stack.enter_context(_process()) for _ in range(processes)])


@contextmanager
def _process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin  # noqa: S101 - told so where it is made
    print(line, file=process.stdin, flush=True)


def _told(process: subprocess.Popen[str]) -> str:
    assert process.stdout  # noqa: S101 - told so where it is made
    line = process.stdout.readline()
    if not line:
        raise BenchError(f"a process that makes load has ended: {process.wait()}")
    return line


class _Calls:
    """Calls of one method, and what they come to."""

    def __init__(self, call: Call, order: Order) -> None:
        requests = [b64decode(line) for line in order.requests.read_bytes().split(b"\n")]
        # Processes that share an order begin apart.
        start = random.randrange(len(requests))  # noqa: S311 - load, not secrets
        self._requests = cycle(requests[start:] + requests[:start])
        self._call = call
        self._order = order
        # Messages that follow one another are one.
        number = order.request_id
        self._naming = bytes((number << 3 | TEXT, UUID_LENGTH)) if number else b""
        self.seen = Seen()

    async def once(self, due: float) -> None:
        """Makes one call that was due at this moment, by `perf_counter`."""
        request = next(self._requests)
        if self._naming:
            request += self._naming + str(uuid4()).encode()
        try:
            answer = await self._call(request, timeout=self._order.timeout)
        except grpc.aio.AioRpcError as error:
            self.seen.errors[error.code().name] += 1
            self.seen.failures.append((time.perf_counter() - due) * MILLI)
        else:
            self.seen.latencies.append((time.perf_counter() - due) * MILLI)
            self.seen.received += len(answer)

    async def closed(self, end: float) -> None:
        """Begins a call when one has been answered."""

        async def keep_calling() -> None:
            # One at least, however short the time and late the machine.
            await self.once(time.perf_counter())
            while (begun := time.perf_counter()) < end:
                await self.once(begun)

        await asyncio.gather(*(keep_calling() for _ in range(self._order.in_flight)))

    async def open(self, end: float, rate: float) -> None:
        """Begins a call when it is due."""
        async with asyncio.TaskGroup() as group:
            due = time.perf_counter()
            while due < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self.once(due))
                due += random.expovariate(rate)


async def make(order: Order, go: asyncio.Future[str]) -> Seen:
    """Calls a server once it is told to, and returns what came of it."""
    async with grpc.aio.insecure_channel(order.address) as channel:
        calls = _Calls(channel.unary_unary(order.method), order)
        await channel.channel_ready()
        print("ready", flush=True)
        await go
        cpu, started = time.process_time(), time.perf_counter()
        end = started + order.seconds
        await (calls.closed(end) if order.rate is None else calls.open(end, order.rate))
        calls.seen.seconds = time.perf_counter() - started
        calls.seen.cpu = time.process_time() - cpu
    return calls.seen


async def _obey() -> None:
    # What a look at garbage takes would be taken for the server's time.
    spare()
    lines = asyncio.to_thread(sys.stdin.readline)
    while line := await lines:
        go = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        seen = await make(_ORDER.validate_json(line), go)
        print(_SEEN.dump_json(seen).decode(), flush=True)
        lines = asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    run(_obey())
