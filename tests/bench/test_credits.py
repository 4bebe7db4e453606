"""The load tests measure what they say, and notice when it is worth nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from byline.v1 import credits_pb2 as pb

from bench.credits import __main__ as bench
from bench.credits.measurement import Measurement
from bench.credits.scenarios import SCENARIOS, Pattern, Scenario, Way
from bench.measurement import BenchError

if TYPE_CHECKING:
    from pathlib import Path

HOT = Scenario(Pattern.HOT, Way.ALONE)
RATIOS = {
    (Pattern.HOT, Way.GATHERED, Way.ALONE),
    (Pattern.HOT, Way.BATCH, Way.PGBENCH),
    (Pattern.NAMED, Way.GATHERED, Way.ALONE),
    (Pattern.SHOP, Way.GATHERED, Way.ALONE),
    (Pattern.COLD, Way.GATHERED, Way.ALONE),
    (Pattern.COLD, Way.BATCH, Way.PGBENCH),
}


def _measured(transfers: int, *, failed: int = 0) -> Measurement:
    errors = {"UNAVAILABLE": failed} if failed else {}
    return Measurement(transfers, 1, 1, 1, errors, server=1, database=1, load=1)


def _ledger(transfers: int, *discrepancies: str) -> pb.AuditCreditsResponse:
    named = [pb.Discrepancy(text=text) for text in discrepancies]
    return pb.AuditCreditsResponse(transfers=transfers, discrepancies=named)


def test_every_scenario_is_measured_and_its_audit_is_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    flags = ("--seconds", "0.1", "--rounds", "1", "--accounts", "100", "--json", str(file))
    # It ends with 1 when an audit is not clean.
    assert bench.main(flags) == 0
    report = json.loads(file.read_text())
    assert [each["name"] for each in report["scenarios"]] == [each.name for each in SCENARIOS]
    for each in report["scenarios"]:
        (measured,) = each["rounds"]
        assert measured["transfers"] > 0
        assert measured["errors"] == {}
        assert measured["p50"] <= measured["p99"]
    compared = {(each["pattern"], each["way"], each["to"]) for each in report["ratios"]}
    assert compared == RATIOS
    assert "PostgreSQL" in report["machine"]["postgres"]
    assert "CPU us of server" in capsys.readouterr().out


def test_a_discrepancy_is_no_measurement() -> None:
    after = _ledger(5, "user 1 has 3, and the ledger says 2")
    with pytest.raises(BenchError, match="not clean:\nuser 1 has 3"):
        bench.check(HOT, _measured(5), _ledger(0), after)


@pytest.mark.parametrize("made", [4, 6])
def test_transfers_that_the_ledger_has_not_or_has_twice_are_no_measurement(made: int) -> None:
    with pytest.raises(BenchError, match=f"made 5 transfers, and the ledger got {made}"):
        bench.check(HOT, _measured(5), _ledger(10), _ledger(10 + made))


@pytest.mark.parametrize("made", [5, 6])
def test_a_call_that_failed_may_have_made_its_transfer(made: int) -> None:
    bench.check(HOT, _measured(5, failed=1), _ledger(10), _ledger(10 + made))
