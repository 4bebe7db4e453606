"""Who may call: every RPC is refused to those who may not, before anything is done for it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from byline.v1 import tags_pb2
from cryptography import x509
from grpc_health.v1 import health_pb2

from service import files, logs
from service.access import check
from service.config import Address, SettingsError
from service.files import FileError
from service.policy import Access, access_needed, name_of
from tests import seen
from tests.certificates import (
    AUDIENCE,
    ISSUER,
    SERVER,
    Authority,
    Pair,
    SigningKey,
    TlsFiles,
    bearer,
    channel_credentials,
    jwks,
    put,
    token_line,
)
from tests.clients import Client, outcome_of, refusal_of, rpcs
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from google.protobuf.descriptor import MethodDescriptor
    from structlog.typing import EventDict

    from service.config import Settings
    from tests.clients import Refusal, What
    from tests.conftest import Serve
    from tests.service.conftest import LogOf

    Metadata = Sequence[tuple[str, str]]

Code = grpc.StatusCode
# Nobody listens there: whatever goes to the database fails, and no refusal does.
NOWHERE = "postgresql+asyncpg://byline@127.0.0.1:1/byline"
ANYWHERE, LOOPBACK = Address("0.0.0.0", 50051), Address("127.0.0.1", 50051)  # noqa: S104 - the point
# What no request reads like: a call that is let in fails by it.
GARBAGE = b"\xff"

LEVELS = ("read", "write", "admin")
# Who has the access that is one less than this one.
LESS = {"read": "stranger", "write": "read", "admin": "write"}
RPCS = list(rpcs())

NOT_IDENTIFIED: What = (Code.UNAUTHENTICATED, "byline/NOT_IDENTIFIED", ("", ""))
TOKEN_REFUSED: What = (Code.UNAUTHENTICATED, "byline/TOKEN_REFUSED", ("", ""))
ACCESS_DENIED: What = (Code.PERMISSION_DENIED, "byline/ACCESS_DENIED", ("", ""))
LET_IN: What = (Code.INVALID_ARGUMENT, "byline/INVALID_REQUEST", ("", ""))


@pytest.fixture
def lines(log_of: LogOf) -> list[EventDict]:
    """The lines of the access log."""
    return log_of(logs)


@pytest.fixture
def asking(tmp_path: Path) -> dict[str, Path]:
    """Settings by which there is a token for each access, called as it, and one for a stranger."""
    tokens, policy = tmp_path / "tokens", tmp_path / "policy.toml"
    tokens.write_text("".join(token_line(f"{who} token", who) for who in (*LEVELS, "stranger")))
    policy.write_text("".join(entry(level, level) for level in LEVELS))
    return {"tokens": tokens, "policy": policy}


def entry(identity: str, access: str) -> str:
    return f'[[callers]]\nidentity = "{identity}"\naccess = "{access}"\n'


def path_of(rpc: MethodDescriptor) -> str:
    return f"{rpc.containing_service.full_name}/{rpc.name}"


def named(rpc: object) -> str:
    return getattr(rpc, "name", "")


@asynccontextmanager
async def serving(
    settings: Settings,
    changed: Mapping[str, object],
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[Client]:
    """A client of a server without a database, with other settings."""
    async with seen.serving(settings, NOWHERE, credentials, **changed) as made:
        yield made.client


@pytest.fixture
async def client(settings: Settings, asking: dict[str, Path]) -> AsyncIterator[Client]:
    async with serving(settings, asking) as connected:
        yield connected


async def told(
    client: Client, rpc: MethodDescriptor, metadata: Metadata = (), request: bytes = GARBAGE
) -> Refusal:
    """Returns what is told of a call that fails, be it since it was let in."""
    return await refusal_of(client.raw(path_of(rpc), request, metadata))


@pytest.mark.parametrize("rpc", RPCS, ids=named)
async def test_an_rpc_is_refused_to_all_who_may_not_before_anything_is_done_for_it(
    client: Client, lines: list[EventDict], rpc: MethodDescriptor
) -> None:
    needed = name_of(access_needed(rpc))
    for metadata, what in (
        ((), NOT_IDENTIFIED),
        (bearer("nobody's token"), TOKEN_REFUSED),
        (bearer("stranger token"), ACCESS_DENIED),
        (bearer(f"{LESS[needed]} token"), ACCESS_DENIED),
    ):
        assert (await told(client, rpc, metadata)).what == what
    assert [line["caller"] for line in lines] == ["", "", "stranger", LESS[needed]]
    assert {(line["statements"], line["pool_ms"]) for line in lines} == {(0, 0)}

    for who in LEVELS[LEVELS.index(needed) :]:
        assert (await told(client, rpc, bearer(f"{who} token"))).what == LET_IN
        assert lines[-1]["caller"] == who


@pytest.mark.parametrize("rpc", RPCS, ids=named)
async def test_a_single_rpc_can_be_allowed(
    client: Client, asking: dict[str, Path], settings: Settings, rpc: MethodDescriptor
) -> None:
    del client
    path = path_of(rpc)
    put(asking["policy"], f'[[callers]]\nidentity = "stranger"\nrpcs = ["{path}"]'.encode())
    async with serving(settings, asking) as client_of_it:
        others = [each for each in RPCS if each is not rpc][:3]
        assert (await told(client_of_it, rpc, bearer("stranger token"))).what == LET_IN
        for other in others:
            refusal = await told(client_of_it, other, bearer("stranger token"))
            assert refusal.what == ACCESS_DENIED


async def test_who_is_let_in_gets_to_the_database(client: Client, lines: list[EventDict]) -> None:
    (count,) = (each for each in RPCS if each.name == "CountUsers")
    refusal = await told(client, count, bearer("read token"), b"")
    assert refusal.reason == "DATABASE_DOWN"
    assert lines[-1]["pool_ms"] > 0


async def test_each_identity_has_a_rate_of_its_own(
    settings: Settings, asking: dict[str, Path], lines: list[EventDict]
) -> None:
    (get,) = (each for each in RPCS if each.name == "GetUser")
    async with serving(settings, {**asking, "caller_rate": 0.001}) as limited:
        for who in ("read", "write", "read"):
            await told(limited, get, bearer(f"{who} token"))
    reasons = [(line["caller"], line["error"]) for line in lines]
    assert reasons == [
        ("read", "InvalidRequest"),
        ("write", "InvalidRequest"),
        ("read", "RateExceeded"),
    ]


async def test_who_lacks_access_is_told_which_and_as_whom(client: Client) -> None:
    (grant,) = (each for each in RPCS if each.name == "Grant")
    refusal = await told(client, grant, bearer("read token"))
    assert refusal.metadata == {"caller": "read", "needed": "admin"}


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "read token"),),
        (("authorization", "Basic cmVhZDp0b2tlbg=="),),
        (("authorization", "Bearer"),),
        (("authorization", ""),),
        (*bearer("read token"), *bearer("read token")),
        bearer("read token "[::-1]),
    ],
)
async def test_what_is_not_one_bearer_token_is_refused(client: Client, metadata: Metadata) -> None:
    assert (await told(client, RPCS[0], metadata)).what == TOKEN_REFUSED


async def test_the_scheme_has_no_case(client: Client) -> None:
    metadata = (("authorization", "bearer admin token"),)
    assert (await told(client, RPCS[0], metadata)).what == LET_IN


async def test_health_is_open(client: Client) -> None:
    answer = await client.health.Check(health_pb2.HealthCheckRequest())
    assert answer.status in {answer.SERVING, answer.NOT_SERVING}


@pytest.mark.parametrize(
    ("needed", "who", "code"),
    [
        ("read", None, Code.UNAUTHENTICATED),
        ("read", "stranger", Code.PERMISSION_DENIED),
        ("read", "read", None),
        ("admin", "write", Code.PERMISSION_DENIED),
        ("admin", "admin", None),
        ("open", None, None),
    ],
)
async def test_reflection_takes_the_access_that_the_settings_say(
    settings: Settings, asking: dict[str, Path], needed: str, who: str | None, code: Code | None
) -> None:
    metadata = bearer(f"{who} token") if who else ()
    async with serving(settings, {**asking, "reflection_access": needed}) as client:
        outcomes: list[Any] = [
            await outcome_of(client.reflect(version, metadata)) for version in ("v1", "v1alpha")
        ]
    for outcome in outcomes:
        assert getattr(outcome, "code", None) is code
        assert code is not None or "byline.v1.UserService" in outcome


async def test_tokens_and_policy_change_with_their_files_and_broken_ones_count_for_nothing(
    client: Client, asking: dict[str, Path], log_of: LogOf
) -> None:
    lines = log_of(files)

    async def answers(token: str) -> What:
        return (await told(client, RPCS[0], bearer(token))).what

    async def comes_to(what: What, token: str) -> None:
        async def holds() -> bool:
            return await answers(token) == what

        await until(holds)

    async def both_are_refused() -> bool:
        assert await answers("another token") == LET_IN
        return [line["event"] for line in lines].count("file refused, the last counts") == 2

    assert await answers("another token") == TOKEN_REFUSED
    put(asking["tokens"], token_line("another token", "ada").encode())
    await comes_to(ACCESS_DENIED, "another token")
    put(asking["policy"], entry("ada", "admin").encode())
    await comes_to(LET_IN, "another token")
    assert await answers("admin token") == TOKEN_REFUSED
    for path in asking.values():
        put(path, b"nothing of the kind")
    await until(both_are_refused)
    put(asking["tokens"], b"")
    await comes_to(TOKEN_REFUSED, "another token")


# Who calls by other means


async def test_a_signed_token_says_who_calls(
    settings: Settings, tmp_path: Path, lines: list[EventDict]
) -> None:
    key = SigningKey()
    (tmp_path / "jwks.json").write_bytes(jwks(key))
    (tmp_path / "policy.toml").write_text(entry("web", "admin"))
    signed = {
        "jwt_keys": str(tmp_path / "jwks.json"),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
        "policy": tmp_path / "policy.toml",
    }
    async with serving(settings, signed) as client:
        assert (await told(client, RPCS[0], bearer(key.sign("web")))).what == LET_IN
        assert (await told(client, RPCS[0], bearer(key.sign("other")))).what == ACCESS_DENIED
        expired = await told(client, RPCS[0], bearer(key.sign("web", exp=time.time() - 99)))
        assert (expired.what, expired.message) == (TOKEN_REFUSED, "the token has expired")
        assert (await told(client, RPCS[0])).what == NOT_IDENTIFIED
    assert [line["caller"] for line in lines] == ["web", "other", "", ""]


@pytest.mark.parametrize(
    ("names", "caller"),
    [
        (["dns:web.example.com", "uri:spiffe://example.com/sa/web"], "spiffe://example.com/sa/web"),
        (["dns:web.example.com", "dns:other.example.com"], "web.example.com"),
        (["uri:https://example.com"], None),
        ([], None),
    ],
)
async def test_a_certificate_says_who_calls_by_its_spiffe_id_or_its_first_dns_name(
    settings: Settings,
    tmp_path: Path,
    lines: list[EventDict],
    names: list[str],
    caller: str | None,
) -> None:
    authority = Authority()
    made = authority.issue(*map(general_name, names))
    async with mutual(settings, tmp_path, authority, made, policy=entry("**", "admin")) as client:
        refusal = await told(client, RPCS[0])
    assert refusal.what == (LET_IN if caller else NOT_IDENTIFIED)
    assert lines[-1]["caller"] == (caller or "")


async def test_a_token_counts_over_the_certificate(
    settings: Settings, tmp_path: Path, asking: dict[str, Path], lines: list[EventDict]
) -> None:
    authority = Authority()
    made = authority.issue(general_name("dns:admin"))
    policy = entry("admin", "admin")
    tokens = asking["tokens"]
    async with mutual(settings, tmp_path, authority, made, policy, tokens=tokens) as client:
        for metadata, what in (
            ((), LET_IN),
            (bearer("stranger token"), ACCESS_DENIED),
            (bearer("nobody's token"), TOKEN_REFUSED),
        ):
            assert (await told(client, RPCS[0], metadata)).what == what
    assert [line["caller"] for line in lines] == ["admin", "stranger", ""]


def general_name(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    return x509.DNSName(value) if kind == "dns" else x509.UniformResourceIdentifier(value)


@asynccontextmanager
async def mutual(
    settings: Settings,
    folder: Path,
    authority: Authority,
    client: Pair,
    policy: str,
    **changed: object,
) -> AsyncIterator[Client]:
    """A client with a certificate of a server that asks for one."""
    written = TlsFiles(folder)
    written.write(authority.issue(*SERVER), authority.certificate)
    put(folder / "policy.toml", policy.encode())
    given = written.mutual | {"policy": folder / "policy.toml"} | changed
    credentials = channel_credentials(authority.certificate, client)
    async with serving(settings, given, credentials) as connected:
        yield connected


async def test_a_request_id_is_its_callers_own(
    serve: Serve, database_url: str, asking: dict[str, Path]
) -> None:
    request_id = str(uuid4())
    async with serve(database_url, **asking) as client:
        for who in ("write", "admin"):
            request = tags_pb2.CreateTagsRequest(names=[who], request_id=request_id)
            for _ in "12":
                answer = await client.tags.CreateTags(request, metadata=bearer(f"{who} token"))
                assert [tag.name for tag in answer.tags] == [who]
        taken = tags_pb2.CreateTagsRequest(names=["other"], request_id=request_id)
        call = client.tags.CreateTags(taken, metadata=bearer("admin token"))
        assert (await refusal_of(call)).reason == "REQUEST_ID_REUSED"


# Who can call a server at all


def test_an_address_of_the_machine_alone_may_be_open(settings: Settings) -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        said = check(settings, LOOPBACK._replace(host=host))
        assert said == "everybody on this machine, without authentication, without TLS"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "byline.example.com"])  # noqa: S104 - the point
def test_another_address_takes_tls_and_authentication_or_a_word(
    settings: Settings, tmp_path: Path, asking: dict[str, Path], host: str
) -> None:
    authority, written = Authority(), TlsFiles(tmp_path)
    written.write(authority.issue(*SERVER), authority.certificate)
    address = ANYWHERE._replace(host=host)
    for given in ({}, asking, written.settings):
        with pytest.raises(SettingsError, match=f"others can reach {host}: .* or --insecure"):
            check(settings.model_copy(update=given), address)
    whole = settings.model_copy(update=asking | written.settings)
    assert check(whole, address) == "callers by policy, over TLS"
    word = settings.model_copy(update={"insecure": True})
    assert check(word, address) == "everybody, without authentication, without TLS"


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ("tls_certificate", "--tls-certificate and --tls-key go together"),
        ("tls_key", "--tls-certificate and --tls-key go together"),
        ("tls_client_ca policy", "--tls-client-ca needs --tls-certificate and --tls-key"),
        ("jwt_keys policy", "--jwt-keys, --jwt-issuer and --jwt-audience go together"),
        ("jwt_keys jwt_issuer policy", "--jwt-keys, --jwt-issuer and --jwt-audience go together"),
        ("jwt_audience", "--jwt-keys, --jwt-issuer and --jwt-audience go together"),
        ("tokens", "--tokens, --jwt-keys and --tls-client-ca need a --policy"),
        ("policy", "--policy needs --tokens, --jwt-keys or --tls-client-ca"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: Settings, tmp_path: Path, names: str, complaint: str
) -> None:
    given = {name: tmp_path / name for name in names.split()}
    with pytest.raises(SettingsError, match=complaint):
        check(settings.model_copy(update=given), LOOPBACK)


@pytest.mark.parametrize("name", ["tokens", "policy"])
def test_a_server_does_not_start_with_a_file_that_cannot_be_taken(
    settings: Settings, asking: dict[str, Path], name: str
) -> None:
    asking[name].write_text("nothing of the kind")
    with pytest.raises(FileError, match=str(asking[name])):
        check(settings.model_copy(update=asking), LOOPBACK)


def test_every_access_has_a_name() -> None:
    assert [name_of(each) for each in Access.values()[1:]] == list(LEVELS)
