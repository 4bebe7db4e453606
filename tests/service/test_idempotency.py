"""Calls that are sent twice: one effect, the first answer, and what keeps two calls apart."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary

import grpc
import pytest
from argon2 import PasswordHasher
from byline.v1 import posts_pb2, profiles_pb2, resources_pb2, tags_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Engine, event

from service import logs
from storage.dialects import postgresql
from tests import factories
from tests.clients import Refusal, outcome_of, refusal_of, rpcs
from tests.differences import Difference, differs
from tests.emptying import empty_but_for_requests
from tests.factories import PASSWORD
from tests.onlookers import (
    end_connections,
    locked_user,
    looking_on,
    slow_commits,
    until_nobody_waits,
    until_waiting_for_a_lock,
)
from tests.processes import until
from tests.service.writes import WRITES, named, send
from tests.statements import noting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message
    from sqlalchemy import Connection, ExceptionContext

    from tests.clients import Client
    from tests.conftest import Serve
    from tests.service.conftest import LogOf

Code = grpc.StatusCode
# What no test waits for; one that does has failed.
LONG = 60.0
SHORT = 0.5
PROTOS = Path(__file__).parents[2] / "protos/byline/v1"
CREATE, CHANGE = "UserService/CreateUser", "UserService/ChangePassword"
REUSED = (Code.FAILED_PRECONDITION, "byline/REQUEST_ID_REUSED", ("", ""))
# What changes something that a caller can see, or tries to.
CHANGE_OF_ROWS = re.compile(
    r"\b(INTO|UPDATE|DELETE FROM) (users|profiles|posts|tags|post_tags|ledger)\b"
)
# The first two transactions that keep an answer lose it as if in a deadlock.
LOSE_FIRST = {
    "postgresql": (
        "CREATE SEQUENCE attempts",
        """
        CREATE FUNCTION lose_first() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN
            IF nextval(''attempts'') < 3 THEN RAISE EXCEPTION SQLSTATE ''40P01''; END IF;
            RETURN NULL;
        END'
        """,
        """
        CREATE CONSTRAINT TRIGGER lost AFTER UPDATE ON requests DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION lose_first()
        """,
    ),
    "mysql": (
        "CREATE SEQUENCE attempts",
        """
        CREATE TRIGGER lost AFTER UPDATE ON requests FOR EACH ROW
        IF nextval(attempts) < 3 THEN SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213; END IF
        """,
    ),
}
LOSE_NONE = {
    "postgresql": ("DROP FUNCTION lose_first CASCADE", "DROP SEQUENCE attempts"),
    "mysql": ("DROP TRIGGER lost", "DROP SEQUENCE attempts"),
}
FOURTH_ATTEMPT = {"postgresql": "SELECT nextval('attempts')", "mysql": "SELECT nextval(attempts)"}
# How many different requests are sent at once, and how often each of them.
AT_ONCE, TIMES = 10, 50


class Effects:
    """The transactions of this process that changed something, or tried to, as they commit."""

    def __init__(self) -> None:
        self.made: list[object] = []
        self._under_way: WeakKeyDictionary[object, str] = WeakKeyDictionary()

    def note_statement(
        self, connection: Connection, _: object, statement: str, *__: object
    ) -> None:
        self._note(connection.connection.driver_connection, statement)

    def note_commit(self, connection: Connection) -> None:
        self._note(connection.connection.driver_connection, "COMMIT")

    def note_rollback(self, connection: Connection) -> None:
        # One that is lost will not commit.
        if not connection.invalidated:
            self._note(connection.connection.driver_connection, "ROLLBACK")

    def note_failure(self, failure: ExceptionContext) -> None:
        # A commit that failed has no statement, either.
        if failure.statement is None and self.made:
            self.made.pop()

    async def note_at_driver(self, driver: object, sql: str, _: object) -> None:
        self._note(driver, sql)

    def note_failure_at_driver(self, _: object, sql: str) -> None:
        if sql.startswith("COMMIT") and self.made:
            self.made.pop()

    def _note(self, driver: object, sql: str) -> None:
        if sql.startswith("COMMIT") and driver in self._under_way:
            self.made.append(self._under_way.pop(driver))
        elif sql.startswith(("BEGIN", "ROLLBACK")):
            # What came before a beginning took effect by itself, and was nobody's request.
            self._under_way.pop(driver, None)
        elif CHANGE_OF_ROWS.search(sql):
            self._under_way[driver] = sql


@pytest.fixture
def effects() -> Iterator[list[object]]:
    """The transactions that changed something while the test runs."""
    effects = Effects()
    noted: dict[str, Callable[..., None]] = {
        "before_cursor_execute": effects.note_statement,
        "commit": effects.note_commit,
        "rollback": effects.note_rollback,
        "handle_error": effects.note_failure,
    }
    for name, note in noted.items():
        event.listen(Engine, name, note)
    with noting(effects.note_at_driver, effects.note_failure_at_driver):
        yield effects.made
    for name, note in noted.items():
        event.remove(Engine, name, note)


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


@pytest.fixture(scope="module")
async def other(serve: Serve, shared_url: str) -> AsyncIterator[Client]:
    """A client of another server on the same database, which makes every transfer alone."""
    async with serve(shared_url, gather_transfers=False) as connected_client:
        yield connected_client


@pytest.fixture(params=["the same server", "another server"])
def second(request: pytest.FixtureRequest, client: Client, other: Client) -> Client:
    """A client that sends again what another sent before."""
    return client if request.param == "the same server" else other


async def kept(url: str) -> int:
    """How many requests are kept, with answers or without."""
    async with looking_on(url) as onlooker:
        found: int = await onlooker.value("SELECT count(*) FROM requests")
        return found


def renaming(user_id: int, name: str = "Ada") -> users_pb2.UpdateUserRequest:
    user = resources_pb2.User(id=user_id, full_name=name)
    return users_pb2.UpdateUserRequest(user=user, request_id=str(uuid4()))


# The same call


def test_every_rpc_that_takes_a_request_id_is_tested() -> None:
    takers = {
        f"{rpc.containing_service.name}/{rpc.name}"
        for rpc in rpcs()
        if "request_id" in rpc.input_type.fields_by_name
    }
    assert WRITES.keys() == takers


def test_every_rpc_that_takes_a_request_id_says_how_one_is_refused() -> None:
    contract = "".join(path.read_text() for path in PROTOS.glob("*.proto"))
    comments = {
        name: comment for comment, name in re.findall(r"((?: +//.*\n)+) +rpc (\w+)\(", contract)
    }
    silent = [rpc for rpc in WRITES if "REQUEST_ID_REUSED" not in comments[rpc.partition("/")[2]]]
    assert silent == []


@pytest.mark.parametrize("rpc", WRITES)
async def test_the_same_call_has_one_effect_and_the_same_answer(
    client: Client, second: Client, rpc: str, effects: list[object]
) -> None:
    request = await WRITES[rpc](client)
    request_id = uuid4()
    effects.clear()
    first = await send(client, rpc, request, request_id)
    assert await send(second, rpc, request, request_id) == first
    assert len(effects) == 1


@pytest.mark.parametrize("rpc", WRITES)
async def test_an_answer_outlives_what_it_tells_of_and_the_server_that_gave_it(
    serve: Serve, database_url: str, rpc: str, effects: list[object]
) -> None:
    async with serve(database_url) as before:
        request = await WRITES[rpc](before)
        request_id = uuid4()
        first = await send(before, rpc, request, request_id)
    async with looking_on(database_url) as onlooker:
        await empty_but_for_requests(onlooker)
    effects.clear()
    # With another cost of hashing, as after a change of settings.
    async with serve(database_url, hash_time_cost=2) as after:
        assert await send(after, rpc, request, request_id) == first
    assert len(effects) == 0


async def test_a_request_id_is_the_same_in_either_case(client: Client, database_url: str) -> None:
    request = factories.create_user_request()
    request_id = str(uuid4())
    first = await send(client, "UserService/CreateUser", request, request_id)
    again = await send(client, "UserService/CreateUser", request, request_id.upper())
    assert again == first
    assert await kept(database_url) == 1


async def test_fields_that_the_contract_does_not_know_make_no_difference(client: Client) -> None:
    wire = named(factories.create_user_request(), uuid4()).SerializeToString()
    first = await client.raw("byline.v1.UserService/CreateUser", wire)
    unknown = b"\xc2\x3e\x03new"
    assert await client.raw("byline.v1.UserService/CreateUser", wire + unknown) == first


async def test_calls_without_a_request_id_are_all_different(
    client: Client, database_url: str
) -> None:
    user = await factories.create_user(client)
    await factories.create_post(client, author_id=user.id, title="Notes")
    await factories.create_post(client, author_id=user.id, title="Notes")
    count = await client.posts.CountPosts(posts_pb2.CountPostsRequest())
    assert (count.count, await kept(database_url)) == (2, 0)


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nothing be a transaction by itself, as some of what has no request id is."""
    monkeypatch.setattr(postgresql, "LATE", 0.0)


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize(
    ("rpc", "more", "again"),
    # To claim the id and to keep the answer; again, to find that the id is claimed, and the answer.
    # Whoever has a password to hash looks for the answer first.
    [(rpc, 3, 1) if rpc in {CREATE, CHANGE} else (rpc, 2, 2) for rpc in WRITES],
)
async def test_a_request_id_costs_a_few_statements(
    client: Client, log_of: LogOf, rpc: str, more: int, again: int
) -> None:
    # The secret for the digests is read once.
    await send(client, "TagService/CreateTags", tags("a"), uuid4())
    lines = log_of(logs)
    without, request = await WRITES[rpc](client), await WRITES[rpc](client)
    await client.raw(f"byline.v1.{rpc}", without.SerializeToString())
    request_id = uuid4()
    for _ in range(2):
        await send(client, rpc, request, request_id)
    plain, first, second = (line["statements"] for line in lines[-3:])
    assert (first, second) == (plain + more, again)


async def test_two_methods_may_use_the_same_id(client: Client) -> None:
    request_id = uuid4()
    answers = [await send(client, rpc, await WRITES[rpc](client), request_id) for rpc in WRITES]
    assert len(answers) == len(WRITES)


async def test_a_request_id_may_be_used_again_when_its_time_is_over(
    client: Client, database_url: str
) -> None:
    request_id = uuid4()
    for _ in range(2):
        await send(client, "UserService/CreateUser", factories.create_user_request(), request_id)
        async with looking_on(database_url) as onlooker:
            await onlooker.execute("DELETE FROM requests")


# Another request


def user(**given: Any) -> users_pb2.CreateUserRequest:  # noqa: ANN401 - any field
    values = {"email": "ada@example.com", "username": "ada", "password": PASSWORD}
    return users_pb2.CreateUserRequest(**values | given)


def profile(bio: str = "") -> users_pb2.CreateUserRequest:
    return user(profile=users_pb2.NewProfile(bio=bio))


def update(name: str, *paths: str) -> users_pb2.UpdateUserRequest:
    changed = resources_pb2.User(id=1, full_name=name)
    return users_pb2.UpdateUserRequest(user=changed, update_mask=FieldMask(paths=paths))


def deactivation(seconds: int, nanos: int = 0) -> users_pb2.DeactivateUsersRequest:
    before = Timestamp(seconds=seconds, nanos=nanos)
    return users_pb2.DeactivateUsersRequest(created_before=before)


def post(tag: str) -> posts_pb2.UpdatePostRequest:
    changed = resources_pb2.Post(id=1, tags=[resources_pb2.Tag(name=tag)])
    return posts_pb2.UpdatePostRequest(post=changed)


def change(current: str, new: str) -> users_pb2.ChangePasswordRequest:
    return users_pb2.ChangePasswordRequest(id=1, current_password=current, new_password=new)


def tags(*names: str) -> tags_pb2.CreateTagsRequest:
    return tags_pb2.CreateTagsRequest(names=names)


class Reuse(NamedTuple):
    """Two requests to one RPC, and the fields at which they differ."""

    rpc: str
    first: Message
    then: Message
    fields: str

    def __str__(self) -> str:
        return f"{self.rpc} {self.fields}"


REUSES = [
    Reuse(CREATE, user(), user(email="a@b.c"), "email"),
    Reuse(CREATE, user(), user(username="Ada"), "username"),
    Reuse(CREATE, user(), user(password="other words"), "password"),
    Reuse(CREATE, user(), user(password="other words", username="a"), "password,username"),
    Reuse(CREATE, user(), user(full_name=""), "full_name"),
    Reuse(CREATE, user(role=1), user(), "role"),
    Reuse(CREATE, user(), profile(), "profile"),
    Reuse(CREATE, profile("a"), profile("b"), "profile.bio"),
    Reuse(CREATE, profile(), profile("b"), "profile,profile.bio"),
    Reuse(CHANGE, change(PASSWORD, "12345678"), change(PASSWORD, "12345679"), "new_password"),
    Reuse(CHANGE, change(PASSWORD, "12345678"), change("no idea", "12345678"), "current_password"),
    Reuse("UserService/UpdateUser", update("a"), update("b"), "user.full_name"),
    Reuse("UserService/UpdateUser", update("a"), update("a", "full_name"), "update_mask"),
    Reuse("UserService/DeactivateUsers", deactivation(1), deactivation(1, 1), "created_before"),
    Reuse(
        "UserService/PurgeInactiveUsers",
        users_pb2.PurgeInactiveUsersRequest(),
        users_pb2.PurgeInactiveUsersRequest(validate_only=True),
        "validate_only",
    ),
    Reuse("PostService/UpdatePost", post("a"), post("b"), "post.tags"),
    Reuse("TagService/CreateTags", tags("a", "b"), tags("b", "a"), "names"),
    Reuse("TagService/CreateTags", tags("a", "b"), tags("a"), "names"),
    Reuse(
        "ProfileService/DeleteProfile",
        profiles_pb2.DeleteProfileRequest(user_id=1),
        profiles_pb2.DeleteProfileRequest(user_id=2),
        "user_id",
    ),
]


@pytest.mark.parametrize("reuse", REUSES, ids=str)
async def test_another_request_with_the_same_id_is_refused_and_told_what_differs(
    client: Client, second: Client, reuse: Reuse, effects: list[object]
) -> None:
    rpc, first, then, fields = reuse
    if rpc != CREATE:
        author = await factories.create_user(client, profile=users_pb2.NewProfile())
        await factories.create_post(client, author_id=author.id)
    request_id = uuid4()
    answer = await send(client, rpc, first, request_id)
    effects.clear()
    refusal = await refusal_of(send(second, rpc, then, request_id))
    assert refusal.what == REUSED
    assert refusal.metadata == {"fields": fields}
    assert refusal.details == ("ErrorInfo", "PreconditionFailure")
    assert len(effects) == 0
    # The first request is none the worse.
    assert await send(second, rpc, first, request_id) == answer


async def test_nothing_that_is_kept_tells_a_password(client: Client, database_url: str) -> None:
    made = user()
    await send(client, "UserService/CreateUser", made, uuid4())
    await send(client, "UserService/ChangePassword", change(PASSWORD, "other words"), uuid4())
    async with looking_on(database_url) as onlooker:
        rows = await onlooker.rows("SELECT * FROM requests")
    assert len(rows) == 2
    told = " ".join(shown for row in rows for value in row for shown in spellings(value)).lower()
    for password in (PASSWORD, "other words"):
        raw = password.encode()
        for known in (raw, hashlib.sha256(raw).digest(), hashlib.sha512(raw).digest()):
            for shown in (known.hex(), base64.b64encode(known).decode().rstrip("=")):
                assert shown.lower() not in told
        assert password not in told
    # What is kept of one takes as long to try as a password's own hash.
    assert told.count("argon2id") == 3


async def test_the_same_values_in_two_calls_are_not_seen_to_be_the_same(
    client: Client, database_url: str
) -> None:
    for _ in range(2):
        await send(client, "TagService/CreateTags", tags("a"), uuid4())
    async with looking_on(database_url) as onlooker:
        first, second = await onlooker.rows("SELECT digests FROM requests")
    assert first != second


async def test_a_key_of_ones_own_is_used_instead_of_the_databases(
    serve: Serve, database_url: str
) -> None:
    async with looking_on(database_url) as onlooker:
        await onlooker.execute("DELETE FROM request_keys")
    request_id = uuid4()
    async with serve(database_url, request_key="k" * 32) as client:
        first = await send(client, "TagService/CreateTags", tags("a"), request_id)
    async with serve(database_url, request_key="k" * 32) as client:
        assert await send(client, "TagService/CreateTags", tags("a"), request_id) == first
    async with looking_on(database_url) as onlooker:
        assert await onlooker.value("SELECT count(*) FROM request_keys") == 0
    async with serve(database_url, request_key="l" * 32) as client:
        refusal = await refusal_of(send(client, "TagService/CreateTags", tags("a"), request_id))
    assert refusal.metadata == {"fields": "names"}


# A call that failed


async def test_a_call_that_failed_may_be_sent_again_with_the_same_id(
    client: Client, second: Client, database_url: str
) -> None:
    taken = await factories.create_user(client)
    request = factories.create_user_request(email=taken.email)
    request_id = uuid4()
    refusal = await refusal_of(send(client, "UserService/CreateUser", request, request_id))
    assert refusal.code is Code.ALREADY_EXISTS
    assert await kept(database_url) == 0
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(id=taken.id))
    await send(second, "UserService/CreateUser", request, request_id)
    assert await kept(database_url) == 1


async def test_a_call_that_failed_may_be_sent_again_changed(client: Client) -> None:
    made = await factories.create_user(client)
    request_id = uuid4()
    stale = users_pb2.DeleteUserRequest(id=made.id, etag="0")
    assert (
        await refusal_of(send(client, "UserService/DeleteUser", stale, request_id))
    ).code is Code.ABORTED
    fresh = users_pb2.DeleteUserRequest(id=made.id, etag=made.etag)
    await send(client, "UserService/DeleteUser", fresh, request_id)


async def test_a_call_that_is_cancelled_before_its_commit_leaves_nothing(
    client: Client, second: Client, database_url: str
) -> None:
    made = await factories.create_user(client)
    request = renaming(made.id)
    async with locked_user(database_url, made.id):
        call = client.users.UpdateUser(request)
        leaving = asyncio.ensure_future(outcome_of(call))
        await until_waiting_for_a_lock(database_url)
        call.cancel()
        await asyncio.wait([leaving])
        await until_nobody_waits(database_url)
        assert await kept(database_url) == 0
    answer = await second.users.UpdateUser(request)
    assert answer.user.full_name == "Ada"


@differs(Difference.NOTHING_AT_COMMIT)
async def test_a_call_whose_connection_is_lost_at_the_commit_may_be_sent_again(
    client: Client, second: Client, database_url: str, effects: list[object]
) -> None:
    request = factories.create_user_request(request_id=str(uuid4()))
    async with slow_commits(database_url):
        calling = asyncio.ensure_future(outcome_of(client.users.CreateUser(request)))
        await until_waiting_for_a_lock(database_url)
        await end_connections(database_url)
        refusal = await calling
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "DATABASE_DOWN")
    effects.clear()
    answer = await second.users.CreateUser(request)
    assert await second.users.CreateUser(request) == answer
    assert len(effects) == 1


@differs(Difference.ONE_WRITER)
async def test_a_deadlock_is_tried_again_with_the_same_id(
    client: Client, database_url: str, effects: list[object]
) -> None:
    made = await factories.create_user(client)
    request = renaming(made.id)
    async with looking_on(database_url) as onlooker:
        for statement in LOSE_FIRST[onlooker.kind]:
            await onlooker.execute(statement)
        try:
            effects.clear()
            answer = await client.users.UpdateUser(request)
            assert await onlooker.value(FOURTH_ATTEMPT[onlooker.kind]) == 4
        finally:
            for statement in LOSE_NONE[onlooker.kind]:
                await onlooker.execute(statement)
    assert await client.users.UpdateUser(request) == answer
    assert len(effects) == 1


# A call that is under way


async def test_a_call_that_is_under_way_is_waited_for(
    client: Client, second: Client, database_url: str, effects: list[object]
) -> None:
    made = await factories.create_user(client)
    request = renaming(made.id)
    effects.clear()
    async with locked_user(database_url, made.id):
        first = asyncio.ensure_future(client.users.UpdateUser(request, timeout=LONG))
        await until_waiting_for_a_lock(database_url)
        again = asyncio.ensure_future(second.users.UpdateUser(request, timeout=LONG))
        if second is not client:
            await until_waiting_for_a_lock(database_url, callers=2)
        # Another call of the same server is served meanwhile, so that one has come in, too.
        await second.users.CountUsers(users_pb2.CountUsersRequest())
        assert not first.done()
        assert not again.done()
    assert await again == await first
    assert len(effects) == 1


async def test_the_wait_for_a_call_under_way_ends_with_the_deadline(
    client: Client, second: Client, database_url: str
) -> None:
    made = await factories.create_user(client)
    request = renaming(made.id)
    async with locked_user(database_url, made.id):
        first = asyncio.ensure_future(client.users.UpdateUser(request, timeout=LONG))
        await until_waiting_for_a_lock(database_url)
        refusal = await refusal_of(second.users.UpdateUser(request, timeout=SHORT))
        assert refusal.code is Code.DEADLINE_EXCEEDED
    assert await second.users.UpdateUser(request) == await first


async def test_a_call_takes_the_place_of_the_one_it_waited_for(
    client: Client, second: Client, database_url: str
) -> None:
    made = await factories.create_user(client)
    request = renaming(made.id)
    async with locked_user(database_url, made.id):
        call = client.users.UpdateUser(request, timeout=LONG)
        leaving = asyncio.ensure_future(outcome_of(call))
        await until_waiting_for_a_lock(database_url)
        again = asyncio.ensure_future(second.users.UpdateUser(request, timeout=LONG))
        if second is not client:
            await until_waiting_for_a_lock(database_url, callers=2)
        call.cancel()
        await asyncio.wait([leaving])
    assert (await again).user.full_name == "Ada"


async def test_calls_that_wait_for_one_take_no_connections(
    serve: Serve, client: Client, database_url: str
) -> None:
    made = await factories.create_user(client)
    request = renaming(made.id)
    async with serve(database_url, pool_size=2, pool_overflow=0) as small:
        async with locked_user(database_url, made.id):
            calls = [
                asyncio.ensure_future(small.users.UpdateUser(request, timeout=LONG))
                for _ in range(TIMES)
            ]
            await until_waiting_for_a_lock(database_url)
            # There is one left for others.
            await small.users.CountUsers(users_pb2.CountUsersRequest())
        answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)


async def test_a_call_that_fails_on_its_own_effect_is_answered_as_it_was(
    client: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await factories.create_user(client)
    request = named(change(PASSWORD, "other words"), uuid4())
    request.id = made.id
    first = await client.users.ChangePassword(request)
    async with looking_on(database_url) as onlooker:
        # As if another server were about to commit the first call.
        await onlooker.execute("CREATE TEMPORARY TABLE first AS SELECT * FROM requests")
        await onlooker.execute("DELETE FROM requests")
        with held_hashes(monkeypatch) as is_hashing:
            again = asyncio.ensure_future(client.users.ChangePassword(request, timeout=LONG))
            # It has looked for its answer, and found none.
            await until(is_hashing)
            await onlooker.execute("INSERT INTO requests SELECT * FROM first")
    assert await again == first


# All at once


@pytest.mark.parametrize(
    "ids", [pytest.param(2 * len(WRITES), id="few"), pytest.param(1000, marks=pytest.mark.long)]
)
async def test_any_number_of_calls_at_once_have_one_effect_for_each_id(
    client: Client, other: Client, database_url: str, ids: int, effects: list[object]
) -> None:
    wanted = list(itertools.islice(itertools.cycle(WRITES), ids))
    requests = [(rpc, await WRITES[rpc](client), uuid4()) for rpc in wanted]
    effects.clear()
    for first in range(0, ids, AT_ONCE):
        storm = [
            [send((client, other)[time % 2], *request) for time in range(TIMES)]
            for request in requests[first : first + AT_ONCE]
        ]
        for answers in await asyncio.gather(*(asyncio.gather(*calls) for calls in storm)):
            assert len(set(answers)) == 1
    assert len(effects) == ids
    assert await kept(database_url) == ids


@contextmanager
def held_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Holds up every hash while the block lasts, and yields what tells whether there is one."""
    begun, ended = threading.Event(), threading.Event()
    hash_at_once = PasswordHasher.hash

    def wait(hasher: PasswordHasher, password: bytes) -> str:
        begun.set()
        ended.wait(LONG)
        return hash_at_once(hasher, password)

    with monkeypatch.context() as patched:
        patched.setattr(PasswordHasher, "hash", wait)
        try:
            yield begun.is_set
        finally:
            ended.set()


def spellings(value: object) -> list[str]:
    """How a value of a column may be read."""
    return [value.decode("latin1"), value.hex()] if isinstance(value, bytes) else [str(value)]
