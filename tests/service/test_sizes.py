"""Requests and answers that are too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from byline.v1 import users_pb2 as pb

from tests import factories
from tests.clients import refusal_of

if TYPE_CHECKING:
    from tests.conftest import Serve

ENGINES = ("postgresql",)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_request_that_is_too_large_is_told_how_large_it_may_be(
    serve: Serve, database_url: str
) -> None:
    async with serve(database_url, max_request_bytes=1000) as client:
        refusal = await refusal_of(client.raw("byline.v1.UserService/GetUser", b"x" * 1001))
        assert refusal.code is EXHAUSTED
        assert "1001" in refusal.message
        assert "1000" in refusal.message
        await client.users.CountUsers(pb.CountUsersRequest())


async def test_an_answer_that_is_too_large_says_what_to_ask_for(
    serve: Serve, database_url: str
) -> None:
    async with serve(database_url, max_answer_bytes=300) as client:
        # The answer to a write is sent, however large: the write has taken effect.
        for _ in range(5):
            await factories.create_user(client, full_name="Ada" * 30)
        refusal = await refusal_of(client.users.ListUsers(pb.ListUsersRequest(page_size=5)))
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "ANSWER_TOO_LARGE")
        assert refusal.metadata["most"] == "300"
        assert "a smaller page" in refusal.message
        assert (await client.users.ListUsers(pb.ListUsersRequest(page_size=1))).users
