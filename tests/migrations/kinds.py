"""What callers keep in Byline: since which revision, how it is written, how it is read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from byline.v1 import credits_pb2, posts_pb2, profiles_pb2, resources_pb2, users_pb2

from tests import factories

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from tests.clients import Client

    Kind = Callable[[Client], Awaitable["Kept"]]


class Kept(NamedTuple):
    """Something that was written, as callers see it.

    Args:
        seen: what they saw.
        see: what they see by now.
    """

    seen: Message
    see: Callable[[], Awaitable[Message]]


async def user(client: Client) -> Kept:
    made = await factories.create_user(client, full_name="Ada")

    async def see() -> Message:
        return (await client.users.GetUser(users_pb2.GetUserRequest(id=made.id))).user

    return Kept(made, see)


async def profile(client: Client) -> Kept:
    owner = await factories.create_user(client)
    given = resources_pb2.Profile(user_id=owner.id, bio="Counts.")
    answer = await client.profiles.UpdateProfile(
        profiles_pb2.UpdateProfileRequest(profile=given, allow_missing=True)
    )

    async def see() -> Message:
        asked = profiles_pb2.GetProfileRequest(user_id=owner.id)
        return (await client.profiles.GetProfile(asked)).profile

    return Kept(answer.profile, see)


async def post(client: Client) -> Kept:
    author = await factories.create_user(client)
    made = await factories.create_post(
        client, author_id=author.id, title="Notes", tags=[f"of {author.id}"]
    )

    async def see() -> Message:
        return (await client.posts.GetPost(posts_pb2.GetPostRequest(id=made.id))).post

    return Kept(made, see)


async def post_count(client: Client) -> Kept:
    author = await factories.create_user(client)
    for _ in range(2):
        await factories.create_post(client, author_id=author.id)

    async def see() -> Message:
        asked = users_pb2.GetUserStatisticsRequest(user_id=author.id)
        return await client.users.GetUserStatistics(asked)

    seen = await see()
    assert isinstance(seen, users_pb2.GetUserStatisticsResponse)
    assert "post_count: 2" in str(seen)
    return Kept(seen, see)


async def transfers(client: Client) -> Kept:
    sender, receiver = await factories.create_users_with(client, 10, 0)
    await client.credits.Transfer(
        credits_pb2.TransferRequest(from_user_id=sender, to_user_id=receiver, amount=3)
    )
    await client.credits.Hold(
        credits_pb2.HoldRequest(from_user_id=sender, to_user_id=receiver, amount=2)
    )

    async def see() -> Message:
        return await client.credits.ListTransfers(credits_pb2.ListTransfersRequest(user_id=sender))

    return Kept(await see(), see)


async def balance(client: Client) -> Kept:
    (owner,) = await factories.create_users_with(client, 7)

    async def see() -> Message:
        return await client.credits.GetBalance(credits_pb2.GetBalanceRequest(user_id=owner))

    return Kept(await see(), see)


async def answered_request(client: Client) -> Kept:
    request = factories.create_user_request(request_id=str(uuid4()))

    async def see() -> Message:
        return await client.users.CreateUser(request)

    return Kept(await see(), see)


KINDS: Mapping[Kind, str] = {
    user: "0001",
    profile: "0001",
    post: "0002",
    post_count: "0002",
    transfers: "0003",
    balance: "0003",
    answered_request: "0004",
}


def kinds_at(revision: str) -> list[Kind]:
    """What can be kept at a revision."""
    return [kind for kind, since in KINDS.items() if since <= revision]
