"""Believable things to test with, each different from the last."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from byline.v1 import credits_pb2, posts_pb2, resources_pb2, tags_pb2, users_pb2
from sqlalchemy import insert

from storage import credits, posts, profiles, tags, users
from storage.credits import Operation
from storage.models import EntryKind, Post, Request, User
from storage.moments import moment_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.database import Database
    from storage.posts import PostRow
    from storage.profiles import ProfileRow
    from storage.tags import TagRow
    from storage.transfers import TransferRow
    from storage.users import UserRow
    from tests.clients import Client

PASSWORD = "correct horse battery staple"

_numbers = itertools.count(1)


def new_user(**given: Any) -> users.NewUser:  # noqa: ANN401 - any field of NewUser
    """A user to add by storage."""
    number = next(_numbers)
    values = {
        "email": f"user{number}@example.com",
        "username": f"user{number}",
        "password_hash": "$argon2id$not-a-hash",
    }
    return users.NewUser(**values | given)


async def add_user(db: Database, **given: Any) -> UserRow:  # noqa: ANN401 - any field of NewUser
    """Adds a user by storage."""
    async with db.transaction() as tx:
        return await users.create(tx, new_user(**given))


async def add_users(db: Database, count: int) -> list[UserRow]:
    """Adds users by storage, all at the same moment."""
    async with db.transaction() as tx:
        return [await users.create(tx, new_user()) for _ in range(count)]


async def add_many_users(db: Database, count: int) -> list[int]:
    """Adds any number of users at once, and returns their ids."""
    rows = [
        {
            "email": f"many{number}@x",
            "email_key": f"many{number}@x",
            "username": f"many{number}",
            "username_key": f"many{number}",
            "password_hash": "",
        }
        for number in range(1, count + 1)
    ]
    async with db.transaction() as tx:
        return sorted((await tx.execute(insert(User).returning(User.id), rows)).scalars())


async def add_profile(
    db: Database, user_id: int, bio: str = "Writes.", avatar_url: str = "https://example.com/a.png"
) -> ProfileRow:
    """Adds a profile by storage."""
    async with db.transaction() as tx:
        return await profiles.create(tx, user_id, bio, avatar_url)


def new_post(author_id: int, **given: Any) -> posts.NewPost:  # noqa: ANN401 - any field of NewPost
    """A post to add by storage."""
    values = {"title": f"Post {next(_numbers)}", "content": "Once upon a time."}
    return posts.NewPost(author_id, **values | given)


async def add_post(db: Database, **given: Any) -> PostRow:  # noqa: ANN401 - any field of NewPost
    """Adds a post by storage, and an author of its own where none is given."""
    if "author_id" not in given:
        given["author_id"] = (await add_user(db)).id
    async with db.transaction(single=True) as tx:
        return await posts.create(tx, new_post(**given))


async def add_posts(db: Database, author_id: int, count: int) -> list[PostRow]:
    """Adds posts of one author by storage, all at the same moment."""
    async with db.transaction() as tx:
        return [await posts.create(tx, new_post(author_id)) for _ in range(count)]


async def add_many_posts(db: Database, author_id: int, count: int) -> list[int]:
    """Adds any number of posts of one author at once, and returns their ids."""
    return await add_posts_of(db, [author_id] * count)


async def add_posts_of(
    db: Database, author_ids: Iterable[int], *, published: bool = False
) -> list[int]:
    """Adds a post of each of these authors at once, and returns their ids."""
    rows = [
        {
            "author_id": author_id,
            "title": f"Post {number}",
            "title_key": f"post {number}",
            "content": "",
            "published": published,
        }
        for number, author_id in enumerate(author_ids, 1)
    ]
    async with db.transaction() as tx:
        return sorted((await tx.execute(insert(Post).returning(Post.id), rows)).scalars())


async def add_tags(db: Database, *names: str) -> list[TagRow]:
    """Adds tags by storage."""
    async with db.transaction() as tx:
        return await tags.create(tx, names)


async def add_requests(db: Database, count: int, age: timedelta) -> None:
    """Adds requests by storage that were answered so long ago."""
    answered = moment_of(datetime.now(UTC) - age)
    rows = [
        {"request_id": uuid4(), "method": "", "caller": "", "digests": {}, "created_at": answered}
        for _ in range(count)
    ]
    async with db.transaction() as tx:
        await tx.execute(insert(Request), rows)


def grant(user_id: int, amount: int, memo: str = "") -> Operation:
    """A grant to make by storage."""
    return Operation(EntryKind.GRANT, user_id, amount, memo=memo)


def transfer(sender: int, receiver: int, amount: int, memo: str = "") -> Operation:
    """A transfer to make by storage."""
    return Operation(EntryKind.TRANSFER, receiver, amount, from_user_id=sender, memo=memo)


def hold(
    sender: int, receiver: int, amount: int, lifetime: timedelta = timedelta(hours=1)
) -> Operation:
    """A hold to make by storage, for an hour if not said otherwise."""
    return Operation(EntryKind.HOLD, receiver, amount, from_user_id=sender, lifetime=lifetime)


async def make(db: Database, operation: Operation) -> TransferRow:
    """Makes a grant, a transfer or a hold by storage."""
    async with db.transaction(single=True) as tx:
        return await credits.make(tx, operation)


async def add_users_with(db: Database, *amounts: int) -> list[int]:
    """Adds users by storage, each with so many credits, and returns their ids."""
    made = await add_users(db, len(amounts))
    granted = [grant(user.id, amount) for user, amount in zip(made, amounts, strict=True) if amount]
    async with db.transaction() as tx:
        await credits.make_all(tx, granted)
    return [user.id for user in made]


def create_user_request(**given: Any) -> users_pb2.CreateUserRequest:  # noqa: ANN401 - any field
    """A request that makes a user."""
    number = next(_numbers)
    values = {
        "email": f"user{number}@example.com",
        "username": f"user{number}",
        "password": PASSWORD,
    }
    return users_pb2.CreateUserRequest(**values | given)


async def create_user(client: Client, **given: Any) -> resources_pb2.User:  # noqa: ANN401 - any field
    """Makes a user over gRPC."""
    answer = await client.users.CreateUser(create_user_request(**given))
    return answer.user


async def create_post(client: Client, **given: Any) -> resources_pb2.Post:  # noqa: ANN401 - any field
    """Makes a post over gRPC, and an author of its own where none is given."""
    if "author_id" not in given:
        given["author_id"] = (await create_user(client)).id
    values = {"title": f"Post {next(_numbers)}", "content": "Once upon a time."}
    answer = await client.posts.CreatePost(posts_pb2.CreatePostRequest(**values | given))
    return answer.post


async def create_tags(client: Client, *names: str) -> list[resources_pb2.Tag]:
    """Makes tags over gRPC."""
    answer = await client.tags.CreateTags(tags_pb2.CreateTagsRequest(names=names))
    return list(answer.tags)


async def create_users_with(client: Client, *amounts: int) -> list[int]:
    """Makes users over gRPC, each with so many credits, and returns their ids."""
    ids = [(await create_user(client)).id for _ in amounts]
    for user_id, amount in zip(ids, amounts, strict=True):
        if amount:
            await client.credits.Grant(credits_pb2.GrantRequest(user_id=user_id, amount=amount))
    return ids
