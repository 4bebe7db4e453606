"""What a server writes of its own accord, and what it never does."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import users_pb2 as pb

from service.logs import Lines
from service.passwords import Passwords
from tests import factories
from tests.clients import outcome_of, refusal_of
from tests.onlookers import looking_on, with_password
from tests.processes import calling, serving, until

if TYPE_CHECKING:
    from pathlib import Path

    from storage.database import Database
    from tests.clients import Client

SECRET, WRONG, NEXT, URL_SECRET = "open-sesame-1", "open-barley-2", "open-sesame-3", "open-url-4"

# A fault for which PostgreSQL quotes the whole row.
_CHECK = "ALTER TABLE users ADD CHECK (username <> 'eve')"
REFUSE_EVE = {
    "postgresql": _CHECK,
    "mysql": _CHECK,
    "sqlite": "CREATE TRIGGER no_eve BEFORE INSERT ON users WHEN new.username = 'eve'"
    # In the words of a trigger that no caller can come upon, so that it is a fault of Byline.
    " BEGIN SELECT RAISE(ABORT, 'byline_keep_ledger'); END",
}


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_log_carries_a_password_a_hash_or_a_token(
    db: Database, database_url: str, tmp_path: Path, log_format: str
) -> None:
    url = await with_password(database_url, URL_SECRET)
    outdated = Passwords(time_cost=1, memory_kib=8, parallelism=1, threads=1, queue=0)
    old_hash = await outdated.hash(SECRET)
    outdated.close()
    await factories.add_user(db, username="ada", password_hash=old_hash)
    flags = ("--log-format", log_format, "--log-level", "debug", "--hash-time-cost", "2")
    async with (
        looking_on(database_url) as onlooker,
        serving(tmp_path, "--database-url", url, *flags) as byline,
        calling(byline) as client,
    ):
        await onlooker.execute(REFUSE_EVE[onlooker.kind])
        token = await use_secrets(client)
        hashes = [
            row.password_hash for row in await onlooker.rows("SELECT password_hash FROM users")
        ]
    written = byline.output + byline.complaint

    for told in ("VerifyPassword", "ChangePassword", "Traceback", "INSERT INTO"):
        assert told in written
    assert len({*hashes, old_hash}) == 3
    for secret in (SECRET, WRONG, NEXT, URL_SECRET, "$argon2", old_hash, token, *hashes):
        assert secret not in written


async def test_the_lines_of_calls_come_in_their_order_whatever_is_in_them() -> None:
    stream = BytesIO()
    lines = Lines(stream, logging.INFO, {"worker": 1})
    for told in (
        {"caller": "ada"},
        {"caller": "half \ud83d a pair"},
        {"caller": "bob", "exc_info": ValueError("no such thing")},
        {"caller": "eve"},
    ):
        lines.add("info", partial(dict, told))
    lines.add("debug", dict)
    await until(lambda: bool(stream.getvalue()))
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["caller"] for line in written] == ["ada", "half \ud83d a pair", "bob", "eve"]
    assert written[2]["exception"].endswith("ValueError: no such thing")
    assert {(line["event"], line["level"], line["worker"]) for line in written} == {
        ("call", "info", 1)
    }
    moments = [line["timestamp"] for line in written]
    assert all(datetime.fromisoformat(moment).tzinfo for moment in moments)
    assert moments == sorted(moments)


async def use_secrets(client: Client) -> str:
    """Makes calls with passwords in them, well and badly, and returns a page token."""
    for password in (SECRET, WRONG):
        await outcome_of(
            client.users.VerifyPassword(pb.VerifyPasswordRequest(username="ada", password=password))
        )
    made = await factories.create_user(client, username="bob", password=SECRET)
    for current in (WRONG, SECRET):
        await outcome_of(
            client.users.ChangePassword(
                pb.ChangePasswordRequest(id=made.id, current_password=current, new_password=NEXT)
            )
        )
    request = factories.create_user_request(username="eve", password=SECRET)
    refusal = await refusal_of(client.users.CreateUser(request))
    assert refusal.code is grpc.StatusCode.INTERNAL
    for password in (SECRET * 100, SECRET + "\0", SECRET):
        await refusal_of(factories.create_user(client, username="BOB", password=password))
    cut_short = request.SerializeToString() + b"\x0a\x7f"
    await refusal_of(client.raw("byline.v1.UserService/CreateUser", cut_short))

    first = await client.users.ListUsers(pb.ListUsersRequest(page_size=1))
    for token in (first.next_page_token, first.next_page_token + "AAAA"):
        await outcome_of(client.users.ListUsers(pb.ListUsersRequest(page_token=token)))
    return first.next_page_token
