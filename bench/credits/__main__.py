"""Measures transfers: one by one, gathered, in batches, and beside pgbench.

Every scenario runs once a round, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc
from byline.v1 import credits_pb2 as pb
from rich.console import Console
from rich.progress import Progress

from bench import load
from bench.credits import pgbench, report
from bench.credits.measurement import Measurement
from bench.credits.scenarios import BATCH, SCENARIOS, Way
from bench.credits.world import credited
from bench.machine import machine
from bench.measurement import BenchError
from bench.processes import Serving, byline, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.credits.scenarios import Scenario
    from storage.embedded import Endpoint

# Rows that are many take their time to be added up.
AUDIT_PATIENCE = 600.0
# Longest time in seconds that a scenario of the warm-up takes.
WARM_UP = 3.0


class Stage(NamedTuple):
    """All that runs while it is measured."""

    folder: Path
    accounts: int
    endpoint: Endpoint
    servers: dict[Way, Serving]
    load: load.Load
    audit: Callable[[], pb.AuditCreditsResponse]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints what came of it, and returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        results = run(options.accounts, options.rounds, options.seconds, console)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    console.print(report.table(results), report.comparison(results))
    for name, value in machine().items():
        console.print(f"{name}: {value}", highlight=False)
    if options.json:
        made = report.as_json(results, {**vars(options), "json": str(options.json)})
        options.json.write_text(json.dumps(made, indent=2) + "\n")
    return 0


def run(
    accounts: int, rounds: int, seconds: float, console: Console
) -> dict[Scenario, list[Measurement]]:
    """Measures every scenario in every round, after one that warms up.

    Args:
        accounts: users there are.
        rounds: how many are measured.
        seconds: for each scenario in a round.
        console: where progress is shown.

    Returns:
        What was measured, round by round.

    Raises:
        BenchError: when anything fails, or when an audit is not clean.
    """
    results: dict[Scenario, list[Measurement]] = {each: [] for each in SCENARIOS}
    with ExitStack() as stack, Progress(console=console, transient=True) as bar:
        task = bar.add_task("filling the database", total=(rounds + 1) * len(SCENARIOS))
        stage = _set(stack, accounts)
        audited = stage.audit()
        for number in range(rounds + 1):
            for scenario in SCENARIOS:
                title = f"round {number}" if number else "warm-up"
                bar.update(task, description=f"{title}: {scenario.name}")
                measured = _measure(stage, scenario, seconds if number else min(seconds, WARM_UP))
                before, audited = audited, stage.audit()
                check(scenario, measured, before, audited)
                if number:
                    results[scenario].append(measured)
                bar.advance(task)
    return results


def _set(stack: ExitStack, accounts: int) -> Stage:
    """Starts all that is measured, until the stack ends it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="byline-bench-")))
    endpoint = stack.enter_context(credited(folder, accounts))
    one_by_one = byline(endpoint.url, "--no-gather-transfers")
    alone = stack.enter_context(serving(folder / "alone.log", one_by_one))
    gathering = stack.enter_context(serving(folder / "gathering.log", byline(endpoint.url)))
    servers = {Way.ALONE: alone, Way.GATHERED: gathering, Way.BATCH: alone}
    loading = stack.enter_context(load.loading())
    channel = stack.enter_context(grpc.insecure_channel(alone.address))
    audit: grpc.UnaryUnaryMultiCallable[pb.AuditCreditsRequest, pb.AuditCreditsResponse] = (
        channel.unary_unary(
            "/byline.v1.CreditService/AuditCredits",
            request_serializer=pb.AuditCreditsRequest.SerializeToString,
            response_deserializer=pb.AuditCreditsResponse.FromString,
        )
    )
    ask = partial(audit, pb.AuditCreditsRequest(), timeout=AUDIT_PATIENCE)
    return Stage(folder, accounts, endpoint, servers, loading, ask)


def _measure(stage: Stage, scenario: Scenario, seconds: float) -> Measurement:
    if scenario.way is Way.PGBENCH:
        with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
            return pgbench.measure(
                Path(folder),
                stage.endpoint,
                accounts=scenario.accounts(stage.accounts),
                clients=scenario.in_flight,
                seconds=seconds,
            )
    server, traffic = stage.servers[scenario.way], scenario.traffic(stage.accounts)
    requests = stage.folder / f"{scenario.name}.requests"
    if not requests.exists():
        load.save(traffic.ready(), requests)
    order = load.Order(
        address=server.address,
        method=traffic.method,
        requests=requests,
        in_flight=scenario.in_flight,
        seconds=seconds,
        request_id=pb.TransferRequest.REQUEST_ID_FIELD_NUMBER if traffic.named else 0,
    )
    measured = stage.load.measure(order, server.pid, stage.endpoint.pid)
    return Measurement(
        transfers=measured.calls * traffic.batch,
        seconds=measured.seconds,
        p50=measured.quantile(0.5),
        p99=measured.quantile(0.99),
        errors=measured.errors,
        server=measured.server,
        database=measured.database,
        load=measured.load,
    )


def check(
    scenario: Scenario,
    measured: Measurement,
    before: pb.AuditCreditsResponse,
    after: pb.AuditCreditsResponse,
) -> None:
    """Checks that the ledger agrees, with itself and with what callers were told.

    Raises:
        BenchError: when it does not.
    """
    if after.discrepancies:
        named = "\n".join(each.text for each in after.discrepancies)
        raise BenchError(f"the audit after {scenario.name} is not clean:\n{named}")
    made = after.transfers - before.transfers
    # A call that failed may have had its effect all the same.
    unsure = sum(measured.errors.values()) * (BATCH if scenario.way is Way.BATCH else 1)
    if not measured.transfers <= made <= measured.transfers + unsure:
        raise BenchError(
            f"{scenario.name} made {measured.transfers} transfers, and the ledger got {made}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.credits", description=main.__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10, help="for each scenario in a round [10]"
    )
    parser.add_argument("--rounds", type=int, default=3, help="after a warm-up [3]")
    parser.add_argument("--accounts", type=int, default=100_000, help="users there are [100000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
    return parser


if __name__ == "__main__":
    # What was started is stopped on the way out, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
