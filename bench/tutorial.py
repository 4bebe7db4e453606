"""The same RPCs the way tutorials write them, on the same tables, with a pool of the same size.

Entities, a session for each call, a ping before it, a commit at its end, `selectinload` for what
belongs to a row, an offset as the page token. It is written with care: it reads what it needs in as
few statements as this way allows, and locks what it changes.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from byline.v1 import credits_pb2, posts_pb2, resources_pb2, users_pb2
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import selectinload

from bench import methods
from bench.serve import Context, Rpc, serve
from service.loop import plain, run
from storage.casefold import fold
from storage.database import PoolConfig
from storage.models import CreditAccount, EntryKind, LedgerEntry, Post, Tag, User

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

sessions = async_sessionmaker(expire_on_commit=False)

ROLES = {
    "user": resources_pb2.USER_ROLE_USER,
    "admin": resources_pb2.USER_ROLE_ADMIN,
    "moderator": resources_pb2.USER_ROLE_MODERATOR,
}


async def get_user(
    request: users_pb2.GetUserRequest, context: Context
) -> users_pb2.GetUserResponse:
    """Returns a user by id."""
    async with sessions() as session:
        user = await session.get(User, request.id)
        if user is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such user")
        response = users_pb2.GetUserResponse(user=_to_user(user))
        await session.commit()
    return response


async def batch_get_users(
    request: users_pb2.BatchGetUsersRequest, _: Context
) -> users_pb2.BatchGetUsersResponse:
    """Returns users by id."""
    async with sessions() as session:
        result = await session.scalars(select(User).where(User.id.in_(request.ids)))
        found = {user.id: user for user in result}
        response = users_pb2.BatchGetUsersResponse(
            users=[_to_user(found[each]) for each in request.ids if each in found],
            missing_ids=[each for each in request.ids if each not in found],
        )
        await session.commit()
    return response


async def list_users(
    request: users_pb2.ListUsersRequest, _: Context
) -> users_pb2.ListUsersResponse:
    """Returns a page of users by id."""
    offset, size = int(request.page_token or 0), request.page_size
    async with sessions() as session:
        result = await session.scalars(select(User).order_by(User.id).offset(offset).limit(size))
        response = users_pb2.ListUsersResponse(
            users=[_to_user(user) for user in result], next_page_token=str(offset + size)
        )
        await session.commit()
    return response


async def update_user(
    request: users_pb2.UpdateUserRequest, context: Context
) -> users_pb2.UpdateUserResponse:
    """Changes a user's name."""
    async with sessions() as session:
        user = await session.get(User, request.user.id, with_for_update=True)
        if user is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such user")
        if "full_name" in request.update_mask.paths:
            user.full_name = request.user.full_name
        user.updated_at = func.now()  # type: ignore[assignment] # a datetime here
        await session.commit()
        await session.refresh(user)
    return users_pb2.UpdateUserResponse(user=_to_user(user))


async def list_posts(
    request: posts_pb2.ListPostsRequest, _: Context
) -> posts_pb2.ListPostsResponse:
    """Returns a page of posts by id, in full: with author and tags."""
    offset, size = int(request.page_token or 0), request.page_size
    async with sessions() as session:
        result = await session.scalars(
            select(Post)
            .options(selectinload(Post.author), selectinload(Post.tags))
            .order_by(Post.id)
            .offset(offset)
            .limit(size)
        )
        response = posts_pb2.ListPostsResponse(
            posts=[_to_post(post) for post in result], next_page_token=str(offset + size)
        )
        await session.commit()
    return response


async def create_post(
    request: posts_pb2.CreatePostRequest, context: Context
) -> posts_pb2.CreatePostResponse:
    """Makes a post, and those of its tags that there are not yet."""
    async with sessions() as session:
        author = await session.get(User, request.author_id)
        if author is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such author")
        names = {fold(name): name for name in request.tags}
        result = await session.scalars(select(Tag).where(Tag.name_key.in_(names)))
        found = {tag.name_key: tag for tag in result}
        post = Post(
            author=author,
            title=request.title,
            title_key=fold(request.title),
            content=request.content,
            published=request.published,
            published_at=datetime.now(UTC) if request.published else None,
            tags=[found.get(key) or Tag(name=name, name_key=key) for key, name in names.items()],
        )
        session.add(post)
        await session.commit()
    return posts_pb2.CreatePostResponse(post=_to_post(post))


async def transfer(
    request: credits_pb2.TransferRequest, context: Context
) -> credits_pb2.TransferResponse:
    """Gives credits of one user to another."""
    async with sessions() as session:
        ids = (request.from_user_id, request.to_user_id)
        result = await session.scalars(
            select(CreditAccount)
            .where(CreditAccount.user_id.in_(ids))
            # In order, or two who give to each other wait for each other.
            .order_by(CreditAccount.user_id)
            .with_for_update()
        )
        accounts = {account.user_id: account for account in result}
        if len(accounts) < len(ids):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such user")
        sender, receiver = (accounts[each] for each in ids)
        if sender.available < request.amount:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "too few credits")
        sender.available -= request.amount
        receiver.available += request.amount
        sender.updated_at = receiver.updated_at = func.now()  # type: ignore[assignment] # here too
        entry = LedgerEntry(
            kind=EntryKind.TRANSFER,
            from_user_id=sender.user_id,
            to_user_id=receiver.user_id,
            amount=request.amount,
            memo=request.memo,
        )
        session.add(entry)
        await session.commit()
    return credits_pb2.TransferResponse(transfer=_to_transfer(entry))


def _to_user(user: User) -> resources_pb2.User:
    message = resources_pb2.User(
        id=user.id,
        email=user.email,
        username=user.username,
        full_name=user.full_name,
        role=ROLES[user.role],
        is_active=user.is_active,
        etag=_to_etag(user.updated_at),
    )
    _set(message.created_at, user.created_at)
    _set(message.updated_at, user.updated_at)
    return message


def _to_post(post: Post) -> resources_pb2.Post:
    message = resources_pb2.Post(
        id=post.id,
        author_id=post.author_id,
        title=post.title,
        content=post.content,
        published=post.published,
        author=_to_user(post.author),
        tags=[
            resources_pb2.Tag(id=tag.id, name=tag.name, etag=_to_etag(tag.updated_at))
            for tag in post.tags
        ],
        etag=_to_etag(post.updated_at),
    )
    _set(message.created_at, post.created_at)
    _set(message.updated_at, post.updated_at)
    if post.published_at is not None:
        _set(message.published_at, post.published_at)
    return message


def _to_transfer(entry: LedgerEntry) -> credits_pb2.Transfer:
    message = credits_pb2.Transfer(
        id=entry.id,
        kind=credits_pb2.TRANSFER_KIND_TRANSFER,
        from_user_id=entry.from_user_id or 0,
        to_user_id=entry.to_user_id,
        amount=entry.amount,
        memo=entry.memo,
        state=credits_pb2.TRANSFER_STATE_SETTLED,
    )
    _set(message.created_at, entry.created_at)
    return message


# Where connections are not told of moments, the models' are datetimes.
def _to_etag(moment: Any) -> str:  # noqa: ANN401 - said above
    return f"{int(moment.timestamp() * 1e6):x}"


def _set(message: Timestamp, moment: Any) -> None:  # noqa: ANN401 - said above
    message.FromDatetime(moment)


RPCS = (
    Rpc(methods.GET_USER, users_pb2.GetUserRequest, get_user),
    Rpc(methods.BATCH_GET_USERS, users_pb2.BatchGetUsersRequest, batch_get_users),
    Rpc(methods.LIST_USERS, users_pb2.ListUsersRequest, list_users),
    Rpc(methods.UPDATE_USER, users_pb2.UpdateUserRequest, update_user),
    Rpc(methods.LIST_POSTS, posts_pb2.ListPostsRequest, list_posts),
    Rpc(methods.CREATE_POST, posts_pb2.CreatePostRequest, create_post),
    Rpc(methods.TRANSFER, credits_pb2.TransferRequest, transfer),
)


async def main(database_url: str) -> None:
    """Serves from a database until SIGTERM."""
    pool = PoolConfig()
    engine = create_async_engine(
        database_url, pool_size=pool.size, max_overflow=pool.overflow, pool_pre_ping=True
    )
    sessions.configure(bind=engine)
    try:
        await serve(*RPCS)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    run(main(sys.argv[1]), plain)
