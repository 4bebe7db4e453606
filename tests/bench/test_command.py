"""`byline bench` measures what it says, compares runs, and says what it cannot do."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench import command, page
from bench.compare import changes
from bench.results import RESULTS, Curve, Entry, Figures, Point, Results
from service import cli

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = Figures(1000, 400, 100, 1, 2, 3, 4, 100, 0.5, 0)


def _entry(server: str, server_us: float) -> Entry:
    figures = replace(FIGURES, server_us=server_us)
    return Entry("get-user", server, 64, [figures], figures, {}, None)


def _results(floor_us: float, byline_us: float) -> Results:
    entries = [_entry("floor", floor_us), _entry("tutorial", 2000), _entry("byline", byline_us)]
    curve = Curve("get-user", "byline", [Point(100, FIGURES), Point(200, FIGURES)])
    memory = {"byline": [(1.0, 2**27), (2.0, 2**27)]}
    return Results(
        "2026-01-01T00:00:00+00:00", {}, {"users": "<10>"}, entries, [curve], memory, 0.2
    )


def test_what_took_less_than_the_clock_tells_is_compared_with_nothing() -> None:
    results = _results(0, 100)
    (entry,) = (each for each in results.entries if each.server == "byline")
    assert results.floors(entry) is None


def _written(file: Path, results: Results) -> str:
    file.write_bytes(RESULTS.dump_json(results))
    return str(file)


def test_a_run_measures_every_scenario_on_every_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, html = tmp_path / "results.json", tmp_path / "page.html"
    sizes = ("--users", "120", "--posts", "60", "--rounds", "1", "--seconds", "0.05")
    servers = ("--server", "floor", "--server", "tutorial", "--server", "byline")
    scenarios = ("--scenario", "get-user", "--scenario", "deep-page", "--curve", "get-user")
    files = ("--cache", str(tmp_path / "cache"), "--json", str(file), "--html", str(html))
    assert command.main((*sizes, *servers, *scenarios, *files)) == 0
    results = RESULTS.validate_json(file.read_bytes())
    found = [(each.scenario, each.server) for each in results.entries]
    assert found == [
        ("get-user", "floor"),
        ("get-user", "tutorial"),
        ("get-user", "byline"),
        ("deep-page", "floor"),
        ("deep-page", "byline"),
    ]
    for entry in results.entries:
        assert len(entry.rounds) == 1
        assert entry.errors == {}
        assert entry.median.rate > 0
        assert entry.median.p50 <= entry.median.p90 <= entry.median.p99 <= entry.median.p999
        assert (entry.statements is None) == (entry.server == "floor")
        floor = results.entry(entry.scenario, "floor")
        assert floor is not None
        assert (results.floors(entry) is None) == (floor.median.server_us == 0)
    assert [(each.scenario, each.server) for each in results.curves] == found[:3]
    assert set(results.memory) == {"floor", "tutorial", "byline"}
    assert results.statement_ms
    assert "PostgreSQL" in results.machine["postgres"]
    assert "get-user" in capsys.readouterr().out
    assert html.read_text().count("<svg") == 2 + 1 + 3


def test_the_floor_alone_is_measured_by_what_nobody_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    scenarios = ("--scenario", "search", "--scenario", "deep-page")
    run = ("--server", "floor", "--rounds", "1", "--seconds", "0.05", "--json", str(file))
    assert command.main((*scenarios, *run)) == 0
    entries = RESULTS.validate_json(file.read_bytes()).entries
    assert {each.scenario: each.errors for each in entries} == {"search": {}, "deep-page": {}}


def test_the_page_needs_nothing_but_itself_and_shows_texts_as_they_are() -> None:
    made = page.html(_results(100, 200))
    assert "&lt;10&gt;" in made
    assert "http" not in made.replace("http-equiv", "")
    assert "<script" not in made


def test_a_cost_is_compared_in_the_floors_of_its_own_run() -> None:
    # The machine is half as fast, and nothing else is different: the database's part is none here.
    old, new = _results(100, 200), _results(200, 500)
    (change,) = changes(old, new)
    assert (change.server, change.before, change.after) == ("byline", 3.0, 3.0)


@pytest.mark.parametrize(("byline_us", "status"), [(209, 0), (240, 1), (100, 0)])
def test_what_got_slower_than_the_threshold_ends_it_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], byline_us: float, status: int
) -> None:
    old = _written(tmp_path / "old.json", _results(100, 200))
    new = _written(tmp_path / "new.json", _results(100, byline_us))
    assert command.main(("--measured", new, "--compare", old)) == status
    assert ("slower" in capsys.readouterr().out) == bool(status)


def test_a_threshold_of_its_own_can_be_set(tmp_path: Path) -> None:
    old = _written(tmp_path / "old.json", _results(100, 200))
    new = _written(tmp_path / "new.json", _results(100, 240))
    assert command.main(("--measured", new, "--compare", old, "--threshold", "0.2")) == 0


def test_a_file_without_results_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text("{}")
    assert command.main(("--compare", str(tmp_path / "old.json"))) == 1
    assert "has no results" in capsys.readouterr().err


def test_a_scenario_that_there_is_not_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(("--scenario", "get-nobody"))
    assert "no scenario is called get-nobody" in capsys.readouterr().err


def test_without_the_source_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bench", None)
    monkeypatch.delitem(sys.modules, "bench.command")
    assert cli.main(["bench"]) == 1
    assert "bench is not installed" in capsys.readouterr().err
