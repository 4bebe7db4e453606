"""What is asked of the servers, as requests that are ready to be sent."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from byline.v1 import credits_pb2, posts_pb2, resources_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from bench.databases import TAGS
from bench.methods import (
    BATCH_GET_USERS,
    CREATE_POST,
    GET_USER,
    LIST_POSTS,
    LIST_USERS,
    TRANSFER,
    UPDATE_USER,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message


IN_FLIGHT = 64
# The first user is the one whom all give to.
SHOP = 1


class World(NamedTuple):
    """What requests are about.

    Args:
        users: how many there are, from id 1 on.
        posts: how many there are.
        deep: the page token that goes on 100,000 posts into the list, or at its end; empty if no
            server was asked.
        usernames: of some users; of none that need be there if no server was asked.
    """

    users: int
    posts: int
    deep: str = ""
    usernames: Sequence[str] = ("ada.lovelace.1.42",)

    def any_user(self, draw: random.Random) -> int:
        """Returns the id of one, each as likely as the others."""
        return draw.randint(1, self.users)

    def zipf_user(self, draw: random.Random) -> int:
        """Returns the id of one, by Zipf's law: the n-th a n-th as often as the first."""
        return min(int((self.users + 1) ** draw.random()), self.users)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of call.

    Args:
        name: what it is called.
        method: the RPC.
        request: draws a request.
        in_flight: calls under way at once.
        all_serve: whether the tutorial's server has it too.
        ready: requests that are made ready; then they come again.
        asks_first: whether it takes what a server tells: the deep page token or usernames.
    """

    name: str
    method: str
    request: Callable[[World, random.Random], Message]
    in_flight: int = IN_FLIGHT
    all_serve: bool = True
    ready: int = 20_000
    asks_first: bool = False

    def requests(self, world: World) -> list[bytes]:
        """Returns serialized requests, which differ."""
        draw = random.Random(self.name)  # noqa: S311 - load, not secrets
        return [self.request(world, draw).SerializeToString() for _ in range(self.ready)]


def _get(world: World, draw: random.Random) -> Message:
    return users_pb2.GetUserRequest(id=world.any_user(draw))


def _get_zipf(world: World, draw: random.Random) -> Message:
    return users_pb2.GetUserRequest(id=world.zipf_user(draw))


def _batch_get(world: World, draw: random.Random) -> Message:
    ids = draw.sample(range(1, world.users + 1), min(100, world.users))
    return users_pb2.BatchGetUsersRequest(ids=ids)


def _list_users(_: World, __: random.Random) -> Message:
    return users_pb2.ListUsersRequest(page_size=100)


def _list_posts(_: World, __: random.Random) -> Message:
    return posts_pb2.ListPostsRequest(page_size=50, view=posts_pb2.POST_VIEW_FULL)


def first_posts(page_size: int = 50, page_token: str = "") -> posts_pb2.ListPostsRequest:
    """Returns what asks for a page of the list that has a deep end."""
    return posts_pb2.ListPostsRequest(
        order_by="created_at",
        page_size=page_size,
        page_token=page_token,
        view=posts_pb2.POST_VIEW_SUMMARY,
    )


def _first_page(_: World, __: random.Random) -> Message:
    return first_posts()


def _deep_page(world: World, _: random.Random) -> Message:
    return first_posts(page_token=world.deep)


def _search(world: World, draw: random.Random) -> Message:
    """A name, two, the end of one, a number, a whole name and address: what many have to nobody."""
    username = draw.choice(world.usernames)
    first, last, _, number = username.split(".")
    query = draw.choice(
        (
            *("example", first, f"{first}.{last}", f"{last}.1.{number[:2]}"),
            *(f"{last}.1.{number}", f".1.{number}", username, f"{username}@example.com", "xyzzy"),
        )
    )
    filter_ = users_pb2.UserFilter(query=query)
    return users_pb2.ListUsersRequest(filter=filter_, page_size=50, order_by="created_at desc")


def _create_post(world: World, draw: random.Random) -> Message:
    return posts_pb2.CreatePostRequest(
        author_id=world.any_user(draw),
        title=f"The case for distributed consensus {draw.randrange(10**6)}",
        content="letter " * 60,
        published=True,
        tags=draw.sample(TAGS, 3),
    )


def _update_user(world: World, draw: random.Random) -> Message:
    return users_pb2.UpdateUserRequest(
        user=resources_pb2.User(id=world.any_user(draw), full_name=f"Ada {draw.randrange(10**6)}"),
        update_mask=FieldMask(paths=["full_name"]),
    )


def _transfer(world: World, draw: random.Random) -> Message:
    sender, receiver = draw.sample(range(1, world.users + 1), 2)
    return credits_pb2.TransferRequest(from_user_id=sender, to_user_id=receiver, amount=1)


def _transfer_hot(world: World, draw: random.Random) -> Message:
    sender = draw.randint(SHOP + 1, world.users)
    return credits_pb2.TransferRequest(from_user_id=sender, to_user_id=SHOP, amount=1)


SCENARIOS = (
    Scenario("get-user", GET_USER, _get),
    Scenario("get-user-zipf", GET_USER, _get_zipf),
    Scenario("get-user-alone", GET_USER, _get, in_flight=1),
    Scenario("batch-get-users", BATCH_GET_USERS, _batch_get, ready=2_000),
    Scenario("list-users", LIST_USERS, _list_users, ready=1),
    Scenario("list-posts-full", LIST_POSTS, _list_posts, ready=1),
    Scenario("first-page", LIST_POSTS, _first_page, ready=1, all_serve=False),
    Scenario("deep-page", LIST_POSTS, _deep_page, ready=1, all_serve=False, asks_first=True),
    Scenario("search", LIST_USERS, _search, all_serve=False, asks_first=True),
    Scenario("create-post", CREATE_POST, _create_post),
    Scenario("update-user", UPDATE_USER, _update_user),
    Scenario("transfer", TRANSFER, _transfer),
    Scenario("transfer-hot", TRANSFER, _transfer_hot),
)
