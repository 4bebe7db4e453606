"""What gRPC itself tells of a server's connections, and whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from byline.v1 import users_pb2
from grpc_channelz.v1 import channelz_pb2 as pb
from grpc_channelz.v1.channelz_pb2_grpc import ChannelzStub

from tests.certificates import bearer, token_line
from tests.clients import refusal_of
from tests.processes import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients import Client
    from tests.conftest import Serve

# It tells nothing of the database.
ENGINES = ("sqlite",)


def channelz_of(client: Client) -> Any:  # noqa: ANN401 - its types tell of no methods
    return ChannelzStub(client.channel)  # type: ignore[arg-type] # typed for threads


async def test_calls_and_connections_are_told(client: Client) -> None:
    for _ in range(3):
        await client.users.CountUsers(users_pb2.CountUsersRequest())
    channelz = channelz_of(client)

    async def newest() -> pb.Server:
        # Other servers of the process are told too.
        found = (await channelz.GetServers(pb.GetServersRequest())).server
        server: pb.Server = max(found, key=lambda each: each.ref.server_id)
        return server

    async def has_counted() -> bool:
        return bool((await newest()).data.calls_succeeded >= 3)

    # A call is counted after its answer.
    await until(has_counted)
    server = await newest()
    request = pb.GetServerSocketsRequest(server_id=server.ref.server_id)
    (connection,) = (await channelz.GetServerSockets(request)).socket_ref
    told = await channelz.GetSocket(pb.GetSocketRequest(socket_id=connection.socket_id))
    assert told.socket.data.messages_received >= 3


async def test_what_is_not_there_is_not_found(client: Client) -> None:
    asked = channelz_of(client).GetServer(pb.GetServerRequest(server_id=2**62))
    assert (await refusal_of(asked)).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("access", ["read", "write", "admin"])
async def test_it_takes_admin_access(
    serve: Serve, database_url: str, tmp_path: Path, access: str
) -> None:
    tokens, policy = tmp_path / "tokens", tmp_path / "policy.toml"
    tokens.write_text(token_line("a token", "ada"))
    policy.write_text(f'[[callers]]\nidentity = "ada"\naccess = "{access}"\n')
    async with serve(database_url, tokens=tokens, policy=policy) as client:
        channelz, request = channelz_of(client), pb.GetServersRequest()
        assert (await refusal_of(channelz.GetServers(request))).reason == "NOT_IDENTIFIED"
        asked = channelz.GetServers(request, metadata=bearer("a token"))
        if access == "admin":
            assert (await asked).server
        else:
            assert (await refusal_of(asked)).reason == "ACCESS_DENIED"
