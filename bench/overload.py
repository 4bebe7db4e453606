"""Measures what a server does that is offered more than it can do.

First with an RPC that the database bounds: UpdateUser, which a trigger makes wait for 20 ms, on a
pool of one connection and of two. To refuse ten times what one can do takes a process four tenths
of a core; with two it takes two thirds, and calls wait for one another. Then with the cheapest,
GetUser, under the settings that operators get. Load comes from processes of its own, by calls that
begin when they are due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, TextIO

import asyncpg
from byline.v1 import resources_pb2
from byline.v1 import users_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2

import migrations
from bench.load import Load, Order, loading, save
from bench.measurement import BenchError, quantile
from bench.processes import byline, serving
from storage import embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from bench.measurement import Measurement
    from bench.processes import Serving

USERS = 1000
FILL = (
    f"""
    INSERT INTO users (email, email_key, username, username_key, password_hash)
    SELECT name || '@example.com', name || '@example.com', name, name, '!'
    FROM generate_series(1, {USERS}) AS number, format('user%s', number) AS name
    """,  # noqa: S608 - a number of ours
    """
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END'
    """,
    "CREATE TRIGGER slow BEFORE UPDATE ON users EXECUTE FUNCTION dawdle()",
    "VACUUM ANALYZE",
)
HEALTH = "/grpc.health.v1.Health/Check"
# Looks at health in a second, as of some load balancers.
HEALTH_RATE = 20.0
# Processes that make load; one more looks at health.
PROCESSES = 2
HEADINGS = (
    "offered",
    "calls/s",
    "served/s",
    "of peak",
    "p50",
    "p99",
    "refused p99",
    "by the server",
    "health p99",
)


class Subject(NamedTuple):
    """An RPC that is offered too often.

    Args:
        name: what the table says above it.
        method: its path.
        requests: what it is sent.
        flags: how the server is started.
        in_flight: calls at once at which it does what it can.
        times: what it is offered, in parts of what it can do.
    """

    name: str
    method: str
    requests: Sequence[Message]
    flags: Sequence[str]
    in_flight: int
    times: Sequence[float]


def _renaming(number: int) -> pb.UpdateUserRequest:
    user = resources_pb2.User(id=number, full_name="Ada")
    return pb.UpdateUserRequest(user=user, update_mask=FieldMask(paths=["full_name"]))


def _bounded(connections: int) -> Subject:
    """Returns what is offered to a pool of so many connections."""
    return Subject(
        f"UpdateUser on a pool of {connections}",
        "/byline.v1.UserService/UpdateUser",
        [_renaming(number) for number in range(1, USERS + 1)],
        ("--pool-size", str(connections), "--pool-overflow", "0"),
        in_flight=4 * connections,
        times=(0.5, 1, 2, 4, 10),
    )


SUBJECTS = (
    _bounded(1),
    _bounded(2),
    Subject(
        "GetUser",
        "/byline.v1.UserService/GetUser",
        [pb.GetUserRequest(id=number) for number in range(1, USERS + 1)],
        (),
        in_flight=64,
        times=(0.5, 0.8, 1, 1.5, 2, 4),
    ),
)


class Seen(NamedTuple):
    """What came of a load.

    Args:
        times: what was offered, in parts of what the server can do.
        calls: as those saw it who called.
        health: as it was seen meanwhile.
        refused: milliseconds that each refusal took, by the server's log.
    """

    times: float
    calls: Measurement
    health: Measurement
    refused: Sequence[float]


class Loads(NamedTuple):
    """Processes that call, one that looks at health, and where their requests are kept."""

    calls: Load
    health: Load
    folder: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table for each RPC, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="each load is offered [10]")
    options = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as name, embedded.running(Path(name) / "data") as endpoint:
            migrations.up(endpoint.url)
            asyncio.run(_fill(endpoint.psql))
            with loading(PROCESSES) as calls, loading() as health:
                loads = Loads(calls, health, Path(name))
                save([health_pb2.HealthCheckRequest().SerializeToString()], loads.folder / "health")
                for subject in SUBJECTS:
                    words = byline(endpoint.url, *subject.flags)
                    with serving(loads.folder / "log", words) as server:
                        _measure(subject, server, loads, options.seconds)
    except BenchError as error:
        print(f"bench.overload: {error}", file=sys.stderr)
        return 1
    print("load average: " + " ".join(f"{load:.1f}" for load in os.getloadavg()))
    return 0


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in FILL:
        await connection.execute(statement)
    await connection.close()


def _measure(subject: Subject, server: Serving, loads: Loads, seconds: float) -> None:
    """Finds what the server can do of an RPC, and offers it parts and multiples of that."""
    file = loads.folder / "requests"
    save([each.SerializeToString() for each in subject.requests], file)
    order = Order(server.address, subject.method, file, subject.in_flight, seconds)
    # Connections are opened and statements prepared.
    loads.calls.measure(replace(order, seconds=min(1.0, seconds)), server.pid, None)
    can_do = _rate(loads.calls.measure(order, server.pid, None))
    measured: list[Seen] = []
    with ThreadPoolExecutor() as threads:
        for times in subject.times:
            offered = replace(order, rate=can_do * times)
            watch = replace(
                order,
                method=HEALTH,
                requests=loads.folder / "health",
                in_flight=1,
                rate=HEALTH_RATE,
            )
            with (loads.folder / "log").open() as log:
                log.seek(0, os.SEEK_END)
                health = threads.submit(loads.health.measure, watch, server.pid, None)
                calls = loads.calls.measure(offered, server.pid, None)
                measured.append(Seen(times, calls, health.result(), _refused(log)))
    _print(subject, can_do, measured)


def _refused(log: TextIO) -> list[float]:
    """Returns how many milliseconds the refusals took that a log tells of."""
    lines = (json.loads(line) for line in log if "RESOURCE_EXHAUSTED" in line)
    return sorted(line["ms"] for line in lines)


def _print(subject: Subject, can_do: float, measured: Sequence[Seen]) -> None:
    peak = max(can_do, *(_rate(seen.calls) for seen in measured))
    print(f"\n{subject.name}: {can_do:.0f} calls/s with {subject.in_flight} at once\n")
    print(f"| {' | '.join(HEADINGS)} | errors |\n|{' --- |' * (len(HEADINGS) + 1)}")
    for times, calls, health, refused in measured:
        begun = calls.calls + sum(calls.errors.values())
        told = (
            f"{times:g}x",
            f"{begun / calls.seconds:.0f}",
            f"{_rate(calls):.0f}",
            f"{_rate(calls) / peak:.0%}",
            f"{calls.quantile(0.5):.1f} ms",
            f"{calls.quantile(0.99):.1f} ms",
            f"{quantile(calls.failures, 0.99):.1f} ms" if calls.failures else "-",
            f"{quantile(refused, 0.99):.1f} ms" if refused else "-",
            f"{health.quantile(0.99):.1f} ms",
            ", ".join(f"{number} {code}" for code, number in sorted(calls.errors.items())) or "-",
        )
        print(f"| {' | '.join(told)} |", flush=True)


def _rate(measured: Measurement) -> float:
    return measured.calls / measured.seconds


if __name__ == "__main__":
    sys.exit(main())
