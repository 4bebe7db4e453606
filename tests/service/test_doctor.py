"""`byline doctor`: what it finds, what it says to do, and its exit status."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

from storage.dialects import facts
from tests.doctors import examine, lines_of

if TYPE_CHECKING:
    import pytest

    from tests.conftest import Command
    from tests.engines import Engine

# Nobody listens there: port 1 is for tcpmux.
NOWHERE = "postgresql+asyncpg://ada:secret@127.0.0.1:1/byline"
CHECKS = ["port", "callers", "database", "extensions", "pool", "clock", "schema"]


def test_a_server_that_will_serve_is_well(
    byline: Command, database_url: str, engine: Engine
) -> None:
    ended = examine(byline, database_url)
    assert (ended.status, ended.complaint) == (0, "")
    found = lines_of(ended)
    assert list(found) == CHECKS
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    name = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}[engine.name]
    assert re.match(rf"{name} \d+\.\d+", found["database"][1])


def test_a_database_without_a_schema_is_told_how_to_get_one_where_serving_makes_none(
    byline: Command, empty_url: str, engine: Engine
) -> None:
    ended = examine(byline, empty_url)
    outcome, told = lines_of(ended)["schema"]
    if engine.name == "sqlite":
        assert (ended.status, ended.complaint) == (0, "")
        assert (outcome, told) == ("ok", "empty: serving brings it up to date")
    else:
        assert (ended.status, ended.complaint) == (1, "byline: 1 of 7 checks failed\n")
        assert outcome == "FAIL"
        assert "byline migrate up" in told


def test_a_database_without_a_schema_is_well_for_a_server_that_may_make_it(
    byline: Command, empty_url: str
) -> None:
    ended = examine(byline, empty_url, "--migrate")
    assert (ended.status, ended.complaint) == (0, "")
    assert lines_of(ended)["schema"] == ("ok", "empty: serving brings it up to date")


def test_a_pool_that_the_database_has_no_room_for_is_found(
    byline: Command, database_url: str, engine: Engine
) -> None:
    ended = examine(byline, database_url, "--workers", 100, "--pool-size", 100)
    outcome, told = lines_of(ended)["pool"]
    bounded = engine.name != "sqlite"
    assert (ended.status, outcome) == ((1, "FAIL") if bounded else (0, "ok"))
    assert ("max_connections" in told) == bounded


def test_clocks_that_are_apart_are_found(
    byline: Command, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 7)
    outcome, told = lines_of(examine(byline, database_url))["clock"]
    assert outcome == "FAIL"
    assert re.match(r"[67]\.\d+ s from .+NTP", told)


def test_a_database_that_is_away_is_found_and_its_password_not_told(byline: Command) -> None:
    ended = examine(byline, NOWHERE)
    assert (ended.status, ended.complaint) == (1, "byline: 1 of 3 checks failed\n")
    assert lines_of(ended)["database"][0] == "FAIL"
    assert "secret" not in ended.output


def test_a_port_that_somebody_has_is_found(byline: Command, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = examine(byline, database_url, "--listen", listen)
    outcome, told = lines_of(ended)["port"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert listen in told


def test_a_port_for_metrics_that_somebody_has_is_found(byline: Command, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = examine(byline, database_url, "--metrics-listen", listen)
    outcome, told = lines_of(ended)["metrics"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert "--metrics-listen" in told


def test_a_server_that_is_older_than_any_that_was_tried_is_found(
    byline: Command, database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = "mysql" if engine.name == "mariadb" else engine.name
    asked = facts._ASKED[dialect]._replace(least=(99,))  # noqa: SLF001 - no such server is here
    monkeypatch.setitem(facts._ASKED, dialect, asked)  # noqa: SLF001 - so too
    ended = examine(byline, database_url)
    outcome, told = lines_of(ended)["database"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert "docs/databases.md" in told
