"""TLS: what is taken, and files that change under load."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509

from service import files, tls
from service.files import FileError
from tests.certificates import SERVER, Authority, Pair, TlsFiles, channel_credentials, put
from tests.clients import outcome_of
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from structlog.typing import EventDict

    from tests.service.conftest import LogOf

CLIENTS = 8
ROTATIONS = 20
BROKEN = {
    "tls.crt": "there is no certificate in PEM",
    "tls.key": "the key is no private key in PEM without a password",
    "clients.crt": "there is no certificate in PEM",
}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def written(tmp_path: Path, authority: Authority) -> TlsFiles:
    """The files of a server."""
    made = TlsFiles(tmp_path)
    made.write(authority.issue(*SERVER), authority.certificate)
    return made


@pytest.fixture
def lines(log_of: LogOf) -> list[EventDict]:
    return log_of(files)


def arguments(settings: dict[str, Path]) -> dict[str, Any]:
    """Returns the arguments that the settings become."""
    return {
        "certificate": settings["tls_certificate"],
        "key": settings["tls_key"],
        "client_ca": settings.get("tls_client_ca"),
    }


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    """Serves one method, which sends back what it gets, and yields the port."""

    async def echo(request: bytes, _: object) -> bytes:
        return request

    method: Any = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test", {"Echo": method}),)
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield port
    await server.stop(0)


@asynccontextmanager
async def connected(port: int, root: bytes, client: Pair | None = None) -> AsyncIterator[Any]:
    """A connection of its own, by which to call the method."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = channel_credentials(root, client)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield channel.unary_unary("/test/Echo")


async def handshake(port: int, authority: Authority) -> int:
    """Connects, and returns the serial number of the certificate that the server shows."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_rotating_under_load_fails_no_handshake_and_drops_no_connection(
    written: TlsFiles, authority: Authority
) -> None:
    seen: set[int] = set()
    answered = 0
    rotating = True

    async def shake_hands(port: int) -> None:
        while rotating:
            seen.add(await handshake(port, authority))

    async def keep_calling(port: int) -> None:
        nonlocal answered
        async with connected(port, authority.certificate) as echo:
            while rotating:
                assert await echo(b"x") == b"x"
                answered += 1

    def rotate(number: int) -> int:
        pair = authority.issue(*SERVER)
        if number % 2:
            written.write(pair)
        else:
            # As those do who know no better: in place, and one after the other.
            (written.folder / "tls.key").write_bytes(pair.key)
            (written.folder / "tls.crt").write_bytes(pair.certificate)
        return x509.load_pem_x509_certificate(pair.certificate).serial_number

    async with (
        serving(tls.credentials(**arguments(written.settings))) as port,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(CLIENTS):
            group.create_task(shake_hands(port))
            group.create_task(keep_calling(port))
        for number in range(ROTATIONS):
            served = rotate(number)
            before = answered
            await until(lambda: served in seen and answered > before)  # noqa: B023 - awaited
        rotating = False
    assert len(seen) >= ROTATIONS


@pytest.mark.parametrize("name", BROKEN)
async def test_files_that_cannot_be_taken_leave_what_was_served_and_are_logged_once(
    written: TlsFiles, authority: Authority, lines: list[EventDict], name: str
) -> None:
    other = Authority("another")
    whole = (written.folder / name).read_bytes()
    client = authority.issue(x509.DNSName("web.example.com"))
    async with serving(tls.credentials(**arguments(written.mutual))) as port:
        put(written.folder / name, b"-----BEGIN CERTIFICATE-----\n")
        for _ in range(2):
            async with connected(port, authority.certificate, client) as echo:
                assert await echo(b"x") == b"x"
        (written.folder / name).unlink()
        async with connected(port, authority.certificate, client) as echo:
            assert await echo(b"x") == b"x"
        put(written.folder / name, whole)
        written.write(other.issue(*SERVER), other.certificate)
        async with connected(
            port, other.certificate, other.issue(x509.DNSName("web.example.com"))
        ) as echo:
            assert await echo(b"x") == b"x"
    told = [line.get("reason", line["event"]) for line in lines]
    assert told == [BROKEN[name], "No such file or directory", "file read again"]


async def test_a_key_of_another_certificate_is_not_served_with(
    written: TlsFiles, authority: Authority, lines: list[EventDict]
) -> None:
    async with serving(tls.credentials(**arguments(written.settings))) as port:
        before = await handshake(port, authority)
        put(written.folder / "tls.crt", authority.issue(*SERVER).certificate)
        assert await handshake(port, authority) == before
    assert [line["reason"] for line in lines] == ["the key is not the certificate's"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_does_not_start_with_a_file_that_cannot_be_taken(
    written: TlsFiles, name: str
) -> None:
    put(written.folder / name, b"nothing of the kind")
    with pytest.raises(FileError, match=BROKEN[name]) as refused:
        tls.credentials(**arguments(written.mutual))
    assert str(written.folder / name) in str(refused.value)


async def test_a_client_needs_a_certificate_of_the_authority_where_there_is_one(
    written: TlsFiles, authority: Authority
) -> None:
    name = x509.DNSName("web.example.com")
    async with serving(tls.credentials(**arguments(written.mutual))) as port:
        for client in (None, Authority("another").issue(name)):
            async with connected(port, authority.certificate, client) as echo:
                refusal: Any = await outcome_of(echo(b"x"))
                assert refusal.code is grpc.StatusCode.UNAVAILABLE
        async with connected(port, authority.certificate, authority.issue(name)) as echo:
            assert await echo(b"x") == b"x"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "is_taken"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_tls_1_2_is_the_oldest_that_is_taken(
    written: TlsFiles, authority: Authority, version: ssl.TLSVersion, *, is_taken: bool
) -> None:
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    # OpenSSL itself would refuse what is old.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with serving(tls.credentials(**arguments(written.settings))) as port:
        opening = asyncio.open_connection("127.0.0.1", port, ssl=context)
        if is_taken:
            _, writer = await opening
            writer.transport.abort()
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await opening
