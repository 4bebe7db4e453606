"""The SQL that is printed, read by the database's own client, makes the schema that `up` makes."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
from contextlib import closing

from sqlalchemy import make_url

import migrations
from tests.migrations.schemas import seen

ENGINES = ("mariadb", "sqlite")
run = asyncio.to_thread


async def test_the_sql_that_is_printed_makes_the_same_schema(
    database_url: str, empty_url: str
) -> None:
    await run(read, empty_url, await run(migrations.sql, empty_url))
    assert (await run(migrations.status, empty_url)).state is migrations.State.CURRENT
    await run(migrations.check, empty_url)
    made, printed = await seen(database_url), await seen(empty_url)
    assert printed.rows == made.rows
    # On MariaDB, `up` leaves a comment.
    assert words(printed.schema) == re.sub(r" COMMENT='bound for \w+'", "", words(made.schema))


def words(schema: list[object]) -> str:
    """The words of a schema, however they are spaced."""
    return re.sub(r"(\\n|\\t|\s)+", " ", json.dumps(schema))


def read(url: str, script: str) -> None:
    """Has the database's client read a script."""
    place = make_url(url)
    if place.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(place.database or "")) as connection:
            connection.executescript(script)
        return
    command = (
        "mariadb",
        f"--socket={place.query['unix_socket']}",
        "--user=root",
        f"{place.database}",
    )
    subprocess.run(command, input=script, text=True, check=True, capture_output=True)  # noqa: S603 - a program of the machine's, no shell
