"""`byline doctor`: what it finds, what it says to do, and its exit status."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from tests.conftest import Command, Ended
    from tests.engines import Engine

# Nobody listens there: port 1 is for tcpmux.
NOWHERE = "postgresql+asyncpg://ada:secret@127.0.0.1:1/byline"
CHECKS = ["port", "database", "extensions", "pool", "clock", "schema"]


def lines_of(ended: Ended) -> dict[str, tuple[str, str]]:
    """What was found, by what was looked at."""
    found = re.findall(r"^(ok|FAIL) +(\w+) +(.+)$", ended.output, re.MULTILINE)
    return {name: (outcome, told) for outcome, name, told in found}


def examine(byline: Command, url: str, *flags: object) -> Ended:
    return byline("doctor", "--database-url", url, "--listen", "127.0.0.1:0", *flags)


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


def test_a_database_without_a_schema_is_told_how_to_get_one(
    byline: Command, empty_url: str
) -> None:
    ended = examine(byline, empty_url)
    assert (ended.status, ended.complaint) == (1, "byline: 1 of 6 checks failed\n")
    outcome, told = lines_of(ended)["schema"]
    assert outcome == "FAIL"
    assert "byline migrate up" in told


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
    assert (ended.status, ended.complaint) == (1, "byline: 1 of 2 checks failed\n")
    assert lines_of(ended)["database"][0] == "FAIL"
    assert "secret" not in ended.output


def test_a_port_that_somebody_has_is_found(byline: Command, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = examine(byline, database_url, "--listen", listen)
    outcome, told = lines_of(ended)["port"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert listen in told
