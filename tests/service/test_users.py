"""UserService, as its callers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from byline.v1 import users_pb2 as pb

from tests import factories

if TYPE_CHECKING:
    from tests.clients import Client


async def test_a_created_user_can_be_read_by_every_key(client: Client) -> None:
    made = await factories.create_user(client, email="Ada@Example.com", username="Ada")
    for key in ({"id": made.id}, {"email": "ada@EXAMPLE.com"}, {"username": "ADA"}):
        answer = await client.users.GetUser(pb.GetUserRequest(**key))
        assert answer.user == made
