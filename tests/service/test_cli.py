"""The `byline` command, where it does not serve: tests/test_serve.py is about where it does."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from argon2 import PasswordHasher
from sqlalchemy import insert, make_url

import migrations
from service.config import Settings
from storage.database import Database
from storage.models import Request
from storage.moments import moment_of
from tests.differences import Difference, differs
from tests.onlookers import look, with_password
from tests.sessions import execute

if TYPE_CHECKING:
    from tests.conftest import Command
    from tests.engines import Engine

# Nobody listens there: port 1 is for tcpmux.
NOWHERE = "postgresql+asyncpg://ada:secret@127.0.0.1:1/byline"


def head(url: str) -> str:
    return migrations.status(url).head


async def add_requests(url: str, number: int) -> None:
    """Adds requests that were answered at each of the last minutes."""
    database = Database(url)
    now = datetime.now(UTC)
    rows = [
        {
            "request_id": uuid4(),
            "method": "",
            "caller": "",
            "digests": {},
            "created_at": moment_of(now - timedelta(minutes=minutes)),
        }
        for minutes in range(1, number + 1)
    ]
    async with database.transaction() as tx:
        await tx.execute(insert(Request), rows)
    await database.close()


def run_script(url: str, script: str) -> None:
    """Runs a script as the client that comes with the database does."""
    where = make_url(url)
    match where.get_backend_name():
        case "sqlite":
            connection = sqlite3.connect(str(where.database))
            connection.executescript(script)
            connection.close()
        case "mysql":
            socket_flag = f"--socket={where.query['unix_socket']}"
            command = ("mariadb", "--no-defaults", "--user=root", socket_flag, str(where.database))
            subprocess.run(command, input=script, text=True, check=True)  # noqa: S603 - ours
        case _:
            execute(url, script)


def test_up_and_down_take_the_schema_there_and_back(byline: Command, empty_url: str) -> None:
    database = ("--database-url", empty_url)
    newest = head(empty_url)

    ended = byline("migrate", "status", *database)
    assert (ended.status, ended.complaint) == (0, "")
    assert "schema empty: the schema is behind" in ended.output
    assert f"pending {newest}  " in ended.output

    ended = byline("migrate", "up", *database)
    assert (ended.status, ended.complaint) == (0, "")
    assert ended.output.endswith(f"schema {newest}: up to date\n")
    assert migrations.status(empty_url).state is migrations.State.CURRENT

    ended = byline("migrate", "down", "base", *database)
    assert (ended.status, ended.complaint) == (0, "")
    assert migrations.status(empty_url).current is None


def test_down_is_one_step_unless_it_is_told_where_to(byline: Command, database_url: str) -> None:
    steps = len(migrations.status(database_url).pending)
    assert byline("migrate", "down", "--database-url", database_url).status == 0
    assert len(migrations.status(database_url).pending) == steps + 1


def test_sql_is_what_up_would_run(byline: Command, empty_url: str) -> None:
    script = byline("migrate", "sql", "--database-url", empty_url)
    assert (script.status, script.complaint) == (0, "")
    run_script(empty_url, script.output)
    assert migrations.status(empty_url).state is migrations.State.CURRENT
    migrations.check(empty_url)


def test_sql_takes_a_range(byline: Command) -> None:
    assert "CREATE TABLE users" in byline("migrate", "sql", "base:head").output
    assert "CREATE TABLE users" not in byline("migrate", "sql", "head:head").output


def test_the_database_is_shown_without_its_password(byline: Command, database_url: str) -> None:
    url = asyncio.run(with_password(database_url, "secret"))
    ended = byline("migrate", "status", "--database-url", url)
    assert ended.status == 0
    assert make_url(url).render_as_string() in ended.output
    assert "secret" not in ended.output


def test_a_database_url_comes_from_the_environment_too(
    byline: Command, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_DATABASE_URL", empty_url)
    assert byline("migrate", "up").status == 0
    assert migrations.status(empty_url).state is migrations.State.CURRENT


def test_maintenance_does_all_there_is_to_do_and_says_how_much(
    byline: Command, database_url: str
) -> None:
    asyncio.run(add_requests(database_url, 2600))
    maintenance = ("maintenance", "--database-url", database_url)
    ended = byline(*maintenance)
    assert (ended.status, ended.output, ended.complaint) == (
        0,
        "purged requests: 1161\nreleased holds: 0\n",
        "",
    )
    assert byline(*maintenance).output == "purged requests: 0\nreleased holds: 0\n"
    ended = byline(*maintenance, "--request-retention", 3600)
    assert ended.output == "purged requests: 1380\nreleased holds: 0\n"
    assert look(database_url, "SELECT count(*) FROM requests") == 59


def test_maintenance_on_a_database_that_is_away_fails_in_one_line(byline: Command) -> None:
    ended = byline("maintenance", "--database-url", NOWHERE)
    assert (ended.status, ended.output) == (1, "")
    assert ended.complaint.count("\n") == 1


@differs(Difference.NO_SERVER)
def test_serve_refuses_a_schema_that_is_behind_and_says_what_mends_it(
    byline: Command, empty_url: str
) -> None:
    serve = ("serve", "--listen", "127.0.0.1:0", "--database-url", empty_url)
    ended = byline(*serve)
    assert (ended.status, ended.output) == (1, "")
    assert ended.complaint == (
        f"byline: the schema is behind (empty, this Byline expects {head(empty_url)}); "
        "run `byline migrate up`, or serve with --migrate\n"
    )
    assert migrations.status(empty_url).current is None


@pytest.mark.parametrize(
    "command",
    [
        ("serve", "--listen", "127.0.0.1:0"),
        ("serve", "--listen", "127.0.0.1:0", "--migrate"),
        ("migrate", "up"),
        ("migrate", "down"),
    ],
    ids=" ".join,
)
def test_a_schema_that_is_ahead_is_left_alone_and_it_says_what_mends_it(
    byline: Command, database_url: str, command: tuple[str, ...]
) -> None:
    look(database_url, "UPDATE alembic_version SET version_num = '9999'")
    ended = byline(*command, "--database-url", database_url)
    assert (ended.status, ended.output) == (1, "")
    newest = head(database_url)
    assert ended.complaint == (
        f"byline: the schema is ahead (9999, this Byline expects {newest}); run the Byline that "
        f"made it, or with that one `byline migrate down {newest}`\n"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("migrate", "up", "--database-url", NOWHERE), "the database cannot be reached: "),
        (("migrate", "sql", "9999"), "Can't locate revision identified by '9999'"),
        (("serve", "--data-dir", "taken"), "cannot keep data in "),
        (("serve", "--data-dir", "taken/data"), "cannot keep data in "),
        (("serve", "--data-dir", "/proc/data"), "cannot keep data in "),
        (("serve", "--data-dir", "long" * 100), "cannot keep data in "),
        (("serve", "--insecure", "--listen", "8.8.8.8:0"), "cannot listen on 8.8.8.8:0: "),
        (
            ("serve", "--insecure", "--listen", "nowhere.invalid:0"),
            "cannot listen on nowhere.invalid:0: ",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(
    byline: Command, arguments: tuple[str, ...], reason: str
) -> None:
    Path("taken").touch()
    listen = ("--listen", "127.0.0.1:0") if "--data-dir" in arguments else ()
    ended = byline(*arguments, *listen)
    assert (ended.status, ended.output) == (1, "")
    assert ended.complaint.startswith(f"byline: {reason}")
    assert ended.complaint.count("\n") == 1
    assert "secret" not in ended.complaint


@differs(Difference.NO_SERVER)
def test_a_database_that_is_not_there_is_one_line(byline: Command, engine: Engine) -> None:
    ended = byline("migrate", "status", "--database-url", engine.url_of("none"))
    assert (ended.status, ended.output) == (1, "")
    assert re.fullmatch(r"byline: .*\bnone\b.*\n", ended.complaint)


def test_seed_fills_a_database_and_a_second_run_leaves_it_alone(
    byline: Command, database_url: str
) -> None:
    seed = ("seed", "--users", 40, "--posts", 300, "--tags", 10, "--database-url", database_url)
    ended = byline(*seed)
    assert (ended.status, ended.complaint) == (0, "")
    assert re.findall(r"^(\w+) .* (\d+%) \S+ +(\d+/\d+)", ended.output, re.MULTILINE) == [
        *(("users", "100%", "40/40"), ("tags", "100%", "10/10"), ("posts", "100%", "300/300")),
    ]
    assert ended.output.endswith("\nEvery user's password is: correct horse\n")
    rows = "SELECT count(*) FROM users, posts"
    assert look(database_url, rows) == 40 * 300
    password_hash = str(look(database_url, "SELECT max(password_hash) FROM users"))
    assert PasswordHasher().verify(password_hash, "correct horse")

    ended = byline(*seed)
    assert (ended.status, ended.complaint) == (
        1,
        "byline: the database has the data of seed 1 already; take another --seed\n",
    )
    assert look(database_url, rows) == 40 * 300
    assert byline(*seed, "--seed", 2).status == 0


@pytest.mark.parametrize("flag", ["--users", "--posts", "--tags", "--seed"])
@pytest.mark.parametrize("amount", ["-1", "some", "1.5", "", "\u0663", str(2**63), "9" * 5000])
def test_an_amount_that_is_none_is_status_2(byline: Command, flag: str, amount: str) -> None:
    ended = byline("seed", flag, amount)
    assert (ended.status, ended.output) == (2, "")
    assert f"argument {flag}: " in ended.complaint


def test_an_address_that_others_can_reach_is_not_served_on_unguarded(byline: Command) -> None:
    ended = byline("serve", "--listen", "0.0.0.0:0")
    assert (ended.status, ended.output) == (1, "")
    assert ended.complaint == (
        "byline: others can reach 0.0.0.0: it takes TLS (--tls-certificate, --tls-key) and "
        "authentication (--tokens, --jwt-keys or --tls-client-ca), or --insecure\n"
    )
    # It has not begun with a database.
    assert not Path("byline-data").exists()


def test_a_port_that_somebody_listens_on_is_refused(byline: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        taken = f"127.0.0.1:{theirs.getsockname()[1]}"
        ended = byline("serve", "--listen", taken)
    assert ended == (1, "", f"byline: cannot listen on {taken}: Address already in use\n")
    assert not Path("byline-data").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("serve", "--listen", "nowhere"), "--listen 'nowhere': "),
        (("serve", "--workers", "none"), "--workers 'none': "),
        (("serve", "--pool-wait", "for ever"), "--pool-wait 'for ever': "),
        (("serve", "--log-level", "loud"), "--log-level 'loud': "),
        (("serve", "--database-url", "mysql://localhost"), "--database-url: "),
        (("migrate", "up", "--database-url", "mysql://localhost"), "--database-url: "),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(
    byline: Command, arguments: tuple[str, ...], reason: str
) -> None:
    ended = byline(*arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.complaint.startswith(f"byline: {reason}")
    assert ended.complaint.count("\n") == 1


def test_a_bad_variable_is_one_line_and_status_2(
    byline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("BYLINE_MIGRATE=perhaps\n")
    assert byline("serve").complaint.startswith("byline: BYLINE_MIGRATE 'perhaps': ")
    monkeypatch.setenv("BYLINE_MIGRATE", "maybe")
    ended = byline("serve")
    assert (ended.status, ended.output) == (2, "")
    assert ended.complaint.startswith("byline: BYLINE_MIGRATE 'maybe': ")
    # What is right on the command line makes up for what is wrong elsewhere.
    assert byline("serve", "--migrate", "--workers", "0").complaint.startswith("byline: --workers")


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("serve", "--fly"), ("migrate",), ("migrate", "sideways"), ("serve", "now")],
)
def test_what_it_does_not_know_is_status_2_and_says_how_it_is_used(
    byline: Command, arguments: tuple[str, ...]
) -> None:
    ended = byline(*arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.complaint.startswith("usage: byline")


def test_help_lists_every_setting_with_its_variable_and_its_default(byline: Command) -> None:
    ended = byline("serve", "--help")
    assert (ended.status, ended.complaint) == (0, "")
    text = " ".join(ended.output.split())
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "none" if default is None else default
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
        assert f"{field.description} [BYLINE_{name.upper()}; default: {shown}]" in text
    assert "A flag counts more than the environment, the environment more than a .env file." in text


def test_it_tells_its_version(byline: Command) -> None:
    ended = byline("--version")
    assert ended == (0, f"byline {version('byline')}\n", "")
