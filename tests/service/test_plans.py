"""What callers with admin access are told of how the database runs the statements of a call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from byline.v1 import users_pb2 as pb

from service import plans
from storage.dialects import plans as dialects
from tests import factories
from tests.certificates import bearer, token_line
from tests.clients import refusal_of
from tests.service.writes import WRITES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients import Client
    from tests.conftest import Serve
    from tests.engines import Engine

PLEASE = (("x-byline-explain", "1"),)
TIMED = (*PLEASE, ("x-byline-timing", "1"))
MOST = 8192


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "PATIENCE", 60.0)


async def trailers_of(call: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - of any method
    await call
    return [(str(key), str(value)) for key, value in await call.trailing_metadata()]


def lines_of(trailers: list[tuple[str, str]]) -> list[str]:
    return [value for key, value in trailers if key == "x-byline-explain"]


async def test_who_asks_is_told_the_plan_of_each_statement(client: Client, engine: Engine) -> None:
    made = await factories.create_user(client)
    request = pb.GetUserRequest(id=made.id)
    statement, *plan = lines_of(await trailers_of(client.users.GetUser(request, metadata=PLEASE)))
    assert statement.startswith("1: SELECT users.id")
    step = {
        "postgresql": r"1\| (Index|Seq) Scan .*on users",
        "mariadb": r"1\| id=1 select_type=SIMPLE table=users .*key=PRIMARY",
        "sqlite": r"1\| SEARCH users USING INTEGER PRIMARY KEY",
    }[engine.name]
    assert re.match(step, plan[0])


async def test_a_write_is_made_once_and_not_by_being_explained(client: Client) -> None:
    request = factories.create_user_request(profile=pb.NewProfile(bio="Writes."))
    trailers = await trailers_of(client.users.CreateUser(request, metadata=TIMED))
    assert "statements=2 " in dict(trailers)["x-byline-timing"]
    found = lines_of(trailers)
    assert [line[:15] for line in found if ": INSERT" in line] == [
        "1: INSERT INTO ",
        "2: INSERT INTO ",
    ]
    assert (await client.users.CountUsers(pb.CountUsersRequest())).count == 1


async def test_every_write_is_explained_and_no_plan_has_a_value(client: Client) -> None:
    for rpc, make in WRITES.items():
        request = await make(client)
        service, _, method = rpc.partition("/")
        request.request_id = str(uuid4())  # type: ignore[attr-defined] # every write has one
        call = client.channel.unary_unary(
            f"/byline.v1.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=bytes,
        )(request, metadata=TIMED)
        trailers = await trailers_of(call)
        found = lines_of(trailers)
        statements = int(re.findall(r"statements=(\d+)", dict(trailers)["x-byline-timing"])[0])
        numbered = [line for line in found if re.match(r"\d+: ", line)]
        is_cut = found[-1] == f"cut short: there are {statements} statements"
        assert is_cut or len(numbered) == statements, rpc
        assert all(
            any(line.startswith(f"{n}| ") for line in found) for n in range(1, len(numbered))
        )
        assert sum(len(key) + len(value) + 32 for key, value in trailers) < MOST
        for value in (request.request_id, "@example.com", "$argon2", factories.PASSWORD):  # type: ignore[attr-defined] # so too
            assert value not in str(found)


async def test_who_is_refused_is_told_too(client: Client) -> None:
    refusal = await refusal_of(client.users.GetUser(pb.GetUserRequest(id=7), metadata=PLEASE))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert "x-byline-explain" in refusal.trailers


@pytest.mark.parametrize("metadata", [(), (("x-byline-explain", "0"),)])
async def test_who_does_not_ask_is_told_nothing(
    client: Client, metadata: tuple[tuple[str, str], ...]
) -> None:
    call = client.users.CountUsers(pb.CountUsersRequest(), metadata=metadata)
    assert lines_of(await trailers_of(call)) == []


async def test_what_does_not_fit_is_left_out_and_said_to_be(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MOST", 500)
    request = factories.create_user_request(profile=pb.NewProfile(bio="Writes."))
    *found, last = lines_of(await trailers_of(client.users.CreateUser(request, metadata=PLEASE)))
    assert sum(len(line) + plans.OVERHEAD for line in found) <= 500
    assert last == "cut short: there are 2 statements"


async def test_a_plan_that_cannot_be_had_is_no_failure_of_the_call(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dialect in dialects.EXPLAIN:
        monkeypatch.setitem(dialects.EXPLAIN, dialect, "NONSENSE ")
    call = client.users.CreateUser(factories.create_user_request(), metadata=PLEASE)
    (line,) = lines_of(await trailers_of(call))
    assert line.startswith("cut short: ")
    assert (await client.users.CountUsers(pb.CountUsersRequest())).count == 1


async def test_who_lacks_admin_access_is_refused_and_nothing_is_done(
    serve: Serve, database_url: str, tmp_path: Path
) -> None:
    tokens, policy = tmp_path / "tokens", tmp_path / "policy.toml"
    tokens.write_text("".join(token_line(f"{who} token", who) for who in ("writer", "admin")))
    policy.write_text(
        '[[callers]]\nidentity = "writer"\naccess = "write"\n'
        'rpcs = ["byline.v1.UserService/PurgeInactiveUsers"]\n'
        '[[callers]]\nidentity = "admin"\naccess = "admin"\n'
    )
    async with serve(database_url, tokens=tokens, policy=policy) as client:
        request = factories.create_user_request()
        writer, admin = bearer("writer token"), bearer("admin token")
        refusal = await refusal_of(client.users.CreateUser(request, metadata=(*writer, *PLEASE)))
        assert refusal.what == (
            grpc.StatusCode.PERMISSION_DENIED,
            "byline/ACCESS_DENIED",
            ("", ""),
        )
        assert "x-byline-explain" not in refusal.trailers
        # A single RPC that a caller is allowed shows its caller no plans either.
        purge = pb.PurgeInactiveUsersRequest()
        purging = client.users.PurgeInactiveUsers(purge, metadata=(*writer, *PLEASE))
        assert (await refusal_of(purging)).code is grpc.StatusCode.PERMISSION_DENIED
        count = client.users.CountUsers(pb.CountUsersRequest(), metadata=(*admin, *PLEASE))
        assert lines_of(await trailers_of(count))
        assert (await count).count == 0


# Without a database


def test_postgresqls_plans_lose_their_values_and_keep_the_rest() -> None:
    told = [
        "Nested Loop  (cost=0.29..16.35 rows=1 width=98)",
        "  ->  Index Scan using pk_users on users users_1  (cost=0.14..8.16 rows=1 width=98)",
        "        Index Cond: (users_1.id = 4711)",
        "        Filter: ((bio = 'it''s 5",
        "  Index Cond: (id = 12)'::text) AND (share > 7.5) AND (id <> ALL ('{8,9}'::bigint[])))",
        "  ->  Limit  (cost=0.15..8.17 rows=50 width=4)",
    ]
    found = dialects.plan_of("postgresql", [(line,) for line in told], ["QUERY PLAN"])
    assert found == [
        *told[:2],
        "        Index Cond: (users_1.id = ?)",
        "        Filter: ((bio = ?::text) AND (share > ?) AND (id <> ALL (?::bigint[])))",
        told[5],
    ]
