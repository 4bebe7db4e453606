"""How many statements a call takes: as many for a thousand rows as for one, in every view.

An RPC that answers with many rows and has no line in READS, or a view of one, fails the first test.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from byline.v1 import credits_pb2, posts_pb2, resources_pb2, users_pb2
from google.protobuf import message_factory
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.engine import Engine as SqlEngine

from service import logs
from storage import credits
from storage.database import Database
from storage.models import CreditAccount, EntryKind, LedgerEntry, OpenHold, PostTag, Profile
from storage.moments import SECOND, moment_of
from tests import factories
from tests.clients import rpcs
from tests.statements import BEGINNINGS, FRAMES, noting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from tests.clients import Client
    from tests.engines import Engine
    from tests.service.conftest import LogOf

ROWS = (1, 10, 1000)
# What the server asks on its own account, to know whether the database is there.
PING = "SELECT 1"


class Read(NamedTuple):
    """An RPC that answers with many rows, the view that is asked for, and the statements it takes.

    A view that is not stated is one of the others, as is that of an RPC without views.
    """

    rpc: str
    view: str
    statements: int

    def __str__(self) -> str:
        return f"{self.rpc} {self.view}"

    @property
    def method(self) -> str:
        return f"byline.v1.{self.rpc.replace('.', '/')}"


READS = [
    *(
        Read(f"UserService.{rpc}", view, number)
        for rpc in ("BatchGetUsers", "ListUsers", "ListAuthors")
        for view, number in {"": 1, "BASIC": 1, "PROFILE": 1, "FULL": 3}.items()
    ),
    *(
        Read(f"PostService.{rpc}", view, number)
        for rpc in ("BatchGetPosts", "ListPosts")
        for view, number in {"": 1, "SUMMARY": 1, "FULL": 1}.items()
    ),
    Read("UserService.ListUserPostCounts", "", 1),
    Read("TagService.ListTags", "", 1),
    Read("CreditService.ListTransfers", "", 1),
]
# What PostgreSQL says in one statement, the others say in several, as many for any number of rows.
BATCH_TRANSFER = {"postgresql": 2, "mariadb": 4, "sqlite": 4}
# Of GetBalance, Hold, CaptureHold, ReleaseHold, GetTransfer and AuditCredits.
CREDITS = {
    "postgresql": [1, 3, 3, 3, 1, 2],
    "mariadb": [1, 10, 7, 7, 1, 2],
    "sqlite": [1, 9, 6, 6, 1, 2],
}
ONE_USER = {
    users_pb2.USER_VIEW_BASIC: 1,
    users_pb2.USER_VIEW_PROFILE: 1,
    users_pb2.USER_VIEW_FULL: 3,
}


@pytest.fixture(scope="module")
async def module_db(shared_url: str) -> AsyncIterator[Database]:
    """The database of the world, for those who add to it."""
    database = Database(shared_url)
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def client(shared_client: Client, module_db: Database) -> Client:
    """A client of a server of a world, to which tests may add.

    A thousand users have a profile and a published post, of which each has two of a thousand tags.
    The first has been granted credits a thousand times.
    """
    users = await factories.add_many_users(module_db, 1000)
    posts = await factories.add_posts_of(module_db, users, published=True)
    tags = [tag.id for tag in await factories.add_tags(module_db, *map(str, range(1000)))]
    async with module_db.transaction() as tx:
        profiles = [{"user_id": each, "bio": "Writes.", "avatar_url": ""} for each in users]
        await tx.execute(insert(Profile), profiles)
        tagged = [
            {"post_id": post, "tag_id": tags[(at + more) % 1000]}
            for at, post in enumerate(posts)
            for more in range(2)
        ]
        await tx.execute(insert(PostTag), tagged)
        await credits.make_all(tx, [factories.grant(users[0], 5)] * 1000)
    return shared_client


async def add_holds(db: Database, sender: int, receiver: int, number: int) -> None:
    """Adds holds of one credit each, of which every other one has expired."""
    now = moment_of(datetime.now(UTC))
    rows = [
        {
            "kind": EntryKind.HOLD,
            "from_user_id": sender,
            "to_user_id": receiver,
            "amount": 1,
            "memo": "",
            "expires_at": now + (1800 if at % 2 else -1800) * SECOND,
        }
        for at in range(number)
    ]
    names = ["from_user_id", "to_user_id", "amount", "expires_at"]
    async with db.transaction() as tx:
        last = (await tx.execute(select(func.max(LedgerEntry.id)))).scalar_one()
        await tx.execute(insert(LedgerEntry), rows)
        made = select(LedgerEntry.id, *(getattr(LedgerEntry, name) for name in names))
        await tx.execute(
            insert(OpenHold).from_select(["transfer_id", *names], made.where(LedgerEntry.id > last))
        )
        await tx.execute(
            update(CreditAccount)
            .where(CreditAccount.user_id == sender)
            .values(available=CreditAccount.available - number, held=CreditAccount.held + number)
        )


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collects what every engine sends in the block, but for pings and beginnings."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:  # noqa: ANN401 - as SQLAlchemy calls it
        _, _, statement, *_ = arguments
        if statement != PING and not statement.startswith(BEGINNINGS):
            sent.append(statement)

    async def note_at_driver(_: object, query: str, __: object) -> None:
        if not query.startswith(FRAMES):
            sent.append(query)

    event.listen(SqlEngine, "before_cursor_execute", note)
    try:
        with noting(note_at_driver):
            yield sent
    finally:
        event.remove(SqlEngine, "before_cursor_execute", note)


async def statements_of(call: Awaitable[object]) -> int:
    with statements() as sent:
        await call
    return len(sent)


def test_every_rpc_that_answers_with_many_rows_and_every_view_of_it_is_counted() -> None:
    several = {
        (rpc.full_name.removeprefix("byline.v1."), view)
        for rpc in rpcs()
        if {"page_size", "ids"}.intersection(rpc.input_type.fields_by_name)
        for view in ("", *_views(rpc))
    }
    assert {(read.rpc, read.view) for read in READS} == several


@pytest.mark.parametrize("read", READS, ids=str)
async def test_a_thousand_rows_take_as_many_statements_as_one(
    client: Client, log_of: LogOf, read: Read
) -> None:
    lines = log_of(logs)
    (rpc,) = [each for each in rpcs() if each.full_name == f"byline.v1.{read.rpc}"]
    with_contents = read.rpc.startswith("Post") and read.view == "FULL"
    for rows in ROWS:
        with statements() as sent:
            raw = await client.raw(read.method, _request(rpc, read.view, rows).SerializeToString())
        answer = message_factory.GetMessageClass(rpc.output_type).FromString(raw)
        found = getattr(answer, rpc.output_type.fields[0].name)
        assert len(found) == rows
        assert len(sent) == read.statements, sent
        # What a view does not show is not read either.
        assert any("content" in each for each in sent) == with_contents
        if read.view == "FULL":
            assert all(each.tags if with_contents else each.newest_posts for each in found)
    assert [line["statements"] for line in lines] == [read.statements] * len(ROWS)


@pytest.mark.parametrize("posts", ROWS)
async def test_all_that_is_asked_of_one_user_takes_the_same_however_much_they_wrote(
    client: Client, module_db: Database, posts: int
) -> None:
    user = await factories.create_user(client, profile=users_pb2.NewProfile())
    await factories.add_many_posts(module_db, user.id, posts)
    for view, expected in ONE_USER.items():
        request = users_pb2.GetUserRequest(id=user.id, view=view)
        assert await statements_of(client.users.GetUser(request)) == expected
    statistics = users_pb2.GetUserStatisticsRequest(user_id=user.id)
    assert await statements_of(client.users.GetUserStatistics(statistics)) == 1
    deletion = users_pb2.DeleteUserRequest(id=user.id)
    assert await statements_of(client.users.DeleteUser(deletion)) == 1


async def test_many_tags_take_as_many_statements_as_one(client: Client) -> None:
    post = await factories.create_post(client)
    made = [await _statements_of_writes(client, post, few=1, many=1)]
    made.append(await _statements_of_writes(client, post, few=10, many=10))
    made.append(await _statements_of_writes(client, post, few=50, many=1000))
    assert made == made[:1] * 3


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_batch_of_a_thousand_transfers_takes_as_many_statements_as_one(
    client: Client, engine: Engine, *, atomic: bool
) -> None:
    made = []
    for number in ROWS:
        transfers = [
            credits_pb2.NewTransfer(from_user_id=1 + at % 2, to_user_id=2 - at % 2, amount=1)
            for at in range(number)
        ]
        request = credits_pb2.BatchTransferRequest(transfers=transfers, atomic=atomic)
        made.append(await statements_of(client.credits.BatchTransfer(request)))
    assert made == [BATCH_TRANSFER[engine.name]] * 3


@pytest.mark.parametrize("number", ROWS)
async def test_credits_take_the_same_however_many_holds_there_are(
    client: Client, module_db: Database, engine: Engine, number: int
) -> None:
    ada, bob = await factories.create_users_with(client, 5000, 0)
    await add_holds(module_db, ada, bob, number)
    hold = credits_pb2.HoldRequest(from_user_id=ada, to_user_id=bob, amount=1)
    first, second = [(await client.credits.Hold(hold)).transfer.id for _ in range(2)]
    await add_holds(module_db, ada, bob, number)
    calls = client.credits
    assert [
        await statements_of(calls.GetBalance(credits_pb2.GetBalanceRequest(user_id=ada))),
        await statements_of(calls.Hold(hold)),
        await statements_of(calls.CaptureHold(credits_pb2.CaptureHoldRequest(transfer_id=first))),
        await statements_of(calls.ReleaseHold(credits_pb2.ReleaseHoldRequest(transfer_id=second))),
        await statements_of(calls.GetTransfer(credits_pb2.GetTransferRequest(id=first))),
        await statements_of(calls.AuditCredits(credits_pb2.AuditCreditsRequest())),
    ] == CREDITS[engine.name]


async def _statements_of_writes(
    client: Client, post: resources_pb2.Post, *, few: int, many: int
) -> list[int]:
    """Makes tags in every way there is, half of them there already, and takes them off again."""
    names = [f"{many} {number}" for number in range(few)]
    others = [f"other {name}" for name in names]
    tags = [resources_pb2.Tag(name=name) for name in others]
    return [
        await statements_of(factories.create_tags(client, *(f"{many} {n}" for n in range(many)))),
        await statements_of(factories.create_post(client, author_id=post.author_id, tags=others)),
        await statements_of(
            client.posts.AddPostTags(posts_pb2.AddPostTagsRequest(post_id=post.id, tags=names))
        ),
        await statements_of(
            client.posts.UpdatePost(
                posts_pb2.UpdatePostRequest(post=resources_pb2.Post(id=post.id, tags=tags))
            )
        ),
        await statements_of(
            client.posts.RemovePostTags(
                posts_pb2.RemovePostTagsRequest(post_id=post.id, tags=others)
            )
        ),
    ]


def _request(rpc: MethodDescriptor, view: str, rows: int) -> Message:
    """A request for so many rows of the world."""
    asked: dict[str, Any] = {"view": _views(rpc)[view]} if view else {}
    if "user_id" in rpc.input_type.fields_by_name:
        asked["user_id"] = 1
    if "ids" in rpc.input_type.fields_by_name:
        asked["ids"] = range(1, rows + 1)
    else:
        asked["page_size"] = rows
    return message_factory.GetMessageClass(rpc.input_type)(**asked)


def _views(rpc: MethodDescriptor) -> dict[str, int]:
    """The views that a request can ask for, by their names without the prefix."""
    field = rpc.input_type.fields_by_name.get("view")
    if field is None or field.enum_type is None:
        return {}
    return {
        value.name.partition("_VIEW_")[2]: value.number
        for value in field.enum_type.values
        if value.number
    }
