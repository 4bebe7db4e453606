"""A run: every scenario on every server in turn, round after round.

What else the machine does meets all of them alike, and the ratios are of neighbours in time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import grpc
from byline.v1 import users_pb2
from byline.v1.posts_pb2_grpc import PostServiceStub
from byline.v1.users_pb2_grpc import UserServiceStub

from bench import databases, load
from bench.machine import machine
from bench.processes import byline, serving
from bench.results import BYLINE, FLOOR, TUTORIAL, Curve, Entry, Point, Results, figures, middle
from bench.scenarios import World, first_posts
from service.loop import factory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.databases import Running, Sizes
    from bench.load import Load
    from bench.measurement import Measurement
    from bench.processes import Serving
    from bench.scenarios import Scenario

# The database of each server.
SERVERS = {
    FLOOR: None,
    TUTORIAL: "postgresql",
    BYLINE: "postgresql",
    "byline-sqlite": "sqlite",
    "byline-mariadb": "mariadb",
}
# Rows before the deep page, and how many of them a call passes over.
DEPTH, STRIDE = 100_000, 1_000
# Users whose names are searched for, about, and how many of them a call tells.
NAMED, BATCH = 1_000, 100
# Longest time in seconds that a load of the warm-up takes.
WARM_UP = 2.0
# Parts of its peak that a server is offered.
OFFERED = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Args:
        scenarios: which.
        servers: which, of `SERVERS`.
        curves: the scenarios for which latency is measured against offered load.
        rounds: how many are measured, after one that warms up.
        seconds: for each scenario on each server in a round.
        processes: that make the load.
        sizes: of the databases.
        cache: where databases are kept.
    """

    scenarios: Sequence[Scenario]
    servers: Sequence[str]
    curves: Sequence[Scenario]
    rounds: int
    seconds: float
    processes: int
    sizes: Sizes
    cache: Path

    @property
    def pairs(self) -> list[tuple[Scenario, str]]:
        """Which scenarios on which servers, in the order in which a round measures them."""
        return [
            (scenario, server)
            for scenario in self.scenarios
            for server in self.servers
            if scenario.all_serve or server != TUTORIAL
        ]

    @property
    def steps(self) -> int:
        """How often `run` begins something."""
        kinds = {SERVERS[name] for name in self.servers} - {None}
        curves = sum(scenario in self.curves for scenario, _ in self.pairs)
        return len(kinds) + len(self.pairs) * (self.rounds + 1) + curves * len(OFFERED)


class Place(NamedTuple):
    """A server that is measured, and its database."""

    server: Serving
    database: Running | None


@dataclass(slots=True)
class Stage:
    """All that runs while it is measured."""

    folder: Path
    places: dict[str, Place]
    load: Load
    world: World
    started: float = field(default_factory=time.perf_counter)
    memory: defaultdict[str, list[tuple[float, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    statement_ms: list[float] = field(default_factory=list)

    def measure(
        self, scenario: Scenario, server: str, seconds: float, rate: float | None = None
    ) -> Measurement:
        """Has a server serve a scenario for so long."""
        requests = self.folder / f"{scenario.name}.requests"
        if not requests.exists():
            load.save(scenario.requests(self.world), requests)
        place = self.places[server]
        order = load.Order(
            address=place.server.address,
            method=scenario.method,
            requests=requests,
            in_flight=scenario.in_flight,
            seconds=seconds,
            rate=rate,
        )
        database = None if place.database is None else place.database.pid
        measured = self.load.measure(order, place.server.pid, database)
        self.memory[server].append((time.perf_counter() - self.started, measured.memory[1]))
        return measured

    def time_statement(self) -> None:
        """Times GetUser's statement by itself, where there is PostgreSQL."""
        place = self.places.get(BYLINE)
        if place is None or place.database is None:
            return
        with asyncio.Runner(loop_factory=factory) as runner:
            took = runner.run(databases.statement_ms(place.database))
        self.statement_ms.append(took)

    def statements(self, scenario: Scenario, server: str, seconds: float) -> float | None:
        """Returns how many SQL statements a call takes."""
        database = self.places[server].database
        if database is None:
            self.measure(scenario, server, seconds)
            return None
        asyncio.run(databases.count_statements(database, on=True))
        before = asyncio.run(databases.statements(database))
        measured = self.measure(scenario, server, seconds)
        after = asyncio.run(databases.statements(database))
        asyncio.run(databases.count_statements(database, on=False))
        if before is None or after is None:
            return None
        return (after - before) / (measured.calls + sum(measured.errors.values()))


def run(plan: Plan, begin: Callable[[str], None]) -> Results:
    """Measures.

    Args:
        plan: what.
        begin: told what is about to be done, `plan.steps` times.

    Raises:
        BenchError: when it comes to nothing.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with ExitStack() as stack:
        stage = _set(stack, plan, begin)
        entries = _entries(stage, plan, begin)
        curves = [
            _curve(stage, scenario, entry, plan.seconds, begin)
            for scenario in plan.curves
            for entry in entries
            if entry.scenario == scenario.name
        ]
    statement_ms = median(stage.statement_ms) if stage.statement_ms else None
    return Results(started, machine(), _shown(plan), entries, curves, stage.memory, statement_ms)


def _set(stack: ExitStack, plan: Plan, begin: Callable[[str], None]) -> Stage:
    """Starts all that is measured, until the stack ends it."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="byline-bench-")))
    # Databases that run as users of their own are in it.
    folder.chmod(0o755)
    running: dict[str, Running] = {}
    places = {}
    for name in plan.servers:
        kind = SERVERS[name]
        if kind is not None and kind not in running:
            begin(f"filling {kind}")
            kept = databases.seeded(kind, plan.cache, folder, plan.sizes)
            running[kind] = stack.enter_context(kept)
        database = None if kind is None else running[kind]
        words = _words(name, "" if database is None else database.url)
        server = stack.enter_context(serving(folder / f"{name}.log", words))
        places[name] = Place(server, database)
    making = stack.enter_context(load.loading(plan.processes))
    world = World(*plan.sizes)
    addresses = [places[name].server.address for name in plan.servers if BYLINE in name]
    if addresses and any(scenario.asks_first for scenario in plan.scenarios):
        world = asyncio.run(_known(addresses[0], world))
    return Stage(folder, places, making, world)


def _words(name: str, url: str) -> tuple[str, ...]:
    """Returns what runs a server: its module and what that is told."""
    match name:
        case "floor":
            return ("bench.floor",)
        case "tutorial":
            return ("bench.tutorial", url)
        case _:
            return byline(url)


async def _known(address: str, world: World) -> World:
    """Returns the world with what a server tells of it."""
    async with grpc.aio.insecure_channel(address) as channel:
        return world._replace(
            deep=await _deep(channel, world.posts), usernames=await _usernames(channel, world.users)
        )


async def _deep(channel: grpc.aio.Channel, size: int) -> str:
    """Returns the page token that goes on deep in the list of posts."""
    posts = PostServiceStub(channel)
    token = ""
    # A page is left at the end, or the list would have no token for it.
    for _ in range((min(DEPTH, size) - 1) // STRIDE):
        page = await posts.ListPosts(first_posts(STRIDE, token))
        token = page.next_page_token
    return token


async def _usernames(channel: grpc.aio.Channel, size: int) -> list[str]:
    """Returns those of users who are spread evenly over all."""
    users = UserServiceStub(channel)
    ids = range(1, size + 1)[:: max(1, size // NAMED)]
    named = []
    for start in range(0, len(ids), BATCH):
        found = await users.BatchGetUsers(
            users_pb2.BatchGetUsersRequest(ids=ids[start : start + BATCH])
        )
        named += [user.username for user in found.users]
    return named


def _entries(stage: Stage, plan: Plan, begin: Callable[[str], None]) -> list[Entry]:
    """Measures every scenario on every server as often as there are rounds."""
    measured = defaultdict(list)
    statements = {}
    for scenario, server in plan.pairs:
        begin(f"warm-up: {scenario.name} on {server}")
        statements[scenario, server] = stage.statements(
            scenario, server, min(plan.seconds, WARM_UP)
        )
    for number in range(plan.rounds):
        for scenario, server in plan.pairs:
            begin(f"round {number + 1}: {scenario.name} on {server}")
            measured[scenario, server].append(stage.measure(scenario, server, plan.seconds))
        stage.time_statement()
    entries = []
    for (scenario, server), loads in measured.items():
        rounds = [figures(each) for each in loads]
        errors = sum((Counter(each.errors) for each in loads), Counter[str]())
        many = (scenario.name, server, scenario.in_flight, rounds, middle(rounds), errors)
        entries.append(Entry(*many, statements[scenario, server]))
    return entries


def _curve(
    stage: Stage, scenario: Scenario, entry: Entry, seconds: float, begin: Callable[[str], None]
) -> Curve:
    """Measures latency while a server is offered more and more of what it can do at most."""
    points = []
    for part in OFFERED:
        begin(f"{part:.0%} of the peak: {scenario.name} on {entry.server}")
        rate = entry.median.rate * part
        measured = stage.measure(scenario, entry.server, seconds, rate)
        points.append(Point(rate, figures(measured)))
    return Curve(scenario.name, entry.server, points)


def _shown(plan: Plan) -> dict[str, str]:
    return {
        "users": f"{plan.sizes.users:,}",
        "posts": f"{plan.sizes.posts:,}",
        "rounds": str(plan.rounds),
        "seconds": f"{plan.seconds:g}",
        "load processes": str(plan.processes),
    }
