"""Who may call: everybody on an open server, and on others those whom the policy lets in."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from service import tls
from service.config import SettingsError
from service.errors import AccessDenied
from service.files import Watched
from service.identity import Identifier, SignedTokens, Tokens, caller
from service.keys import key_source
from service.policy import Access, Policy, access_named, name_of

if TYPE_CHECKING:
    from grpc import ServerCredentials
    from grpc.aio import ServicerContext

    from service.config import Address, Settings

    Context = ServicerContext[Any, Any]


class Flags(NamedTuple):
    """What two programs take to make a call. The names in capitals are the reader's to fill in."""

    scheme: str
    grpcurl: str
    buf: str


class Guard:
    """Lets the calls pass whose callers are known and have the access that it takes.

    Args:
        identifier: tells who calls.
        policy: tells who has which access.
        reflection: the access that reflection takes; None for none.
    """

    def __init__(
        self, identifier: Identifier, policy: Watched[Policy], reflection: Access.ValueType | None
    ) -> None:
        self._identifier = identifier
        self._policy = policy
        self._reflection = reflection

    async def admit(self, context: Context, path: str, needed: Access.ValueType) -> None:
        """Notes who makes a call, if it is one who may.

        Args:
            context: the call's.
            path: which RPC, `/byline.v1.UserService/GetUser`.
            needed: the access that it takes.

        Raises:
            NotIdentified: when nothing says who calls.
            TokenRefused: when a token says it that does not count.
            KeysUnreachable: when there is no key to check the token with.
            AccessDenied: when the caller lacks the access.
        """
        name = await self._identifier.identify(context)
        caller.set(name)
        if not self._policy.current().allows(name, path.removeprefix("/"), needed):
            raise AccessDenied(name, name_of(needed))

    def admit_to_plans(self) -> None:
        """Lets a call pass that was admitted and asks for plans, which takes admin access.

        Raises:
            AccessDenied: when the caller lacks it.
        """
        name, needed = caller.get(), Access.ACCESS_ADMIN
        # To be allowed a single RPC is to be allowed what it does.
        if not self._policy.current().allows(name, "", needed):
            raise AccessDenied(name, name_of(needed))

    async def admit_reflection(self, context: Context, path: str) -> None:
        """Does the same for a call that asks for the schema."""
        if self._reflection is not None:
            await self.admit(context, path, self._reflection)


def guard(settings: Settings) -> Guard | None:
    """Returns the guard that the settings ask for, None when anybody may call.

    Raises:
        FileError: when a file cannot be taken.
    """
    if not _asks_who_calls(settings):
        return None
    assert settings.policy is not None  # noqa: S101 - `check` has told so
    signed = None
    if settings.jwt_keys is not None:
        signed = SignedTokens(
            key_source(settings.jwt_keys),
            issuer=settings.jwt_issuer or "",
            audience=settings.jwt_audience or "",
            skew=settings.jwt_skew,
        )
    identifier = Identifier(
        Watched(Tokens, settings.tokens) if settings.tokens else None,
        signed,
        certificates=settings.tls_client_ca is not None,
    )
    reflection = settings.reflection_access
    return Guard(
        identifier,
        Watched(Policy, settings.policy),
        None if reflection == "open" else access_named(reflection),
    )


def credentials(settings: Settings) -> ServerCredentials | None:
    """Returns what TLS is served with, None when it is not.

    Raises:
        FileError: when a file cannot be taken.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return tls.credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def check(settings: Settings, address: Address) -> str:
    """Returns in a few words who can call, where the settings go together.

    Raises:
        SettingsError: when they do not, or would leave an address open that others can reach.
        FileError: when a file cannot be taken.
    """
    _check_together(settings)
    has_tls = credentials(settings) is not None
    has_guard = guard(settings) is not None
    is_local = _is_loopback(address.host)
    if not (is_local or settings.insecure or (has_tls and has_guard)):
        raise SettingsError(
            f"others can reach {address.host}: it takes TLS (--tls-certificate, --tls-key) and "
            "authentication (--tokens, --jwt-keys or --tls-client-ca), or --insecure"
        )
    everybody = "everybody on this machine" if is_local else "everybody"
    who = "callers by policy" if has_guard else f"{everybody}, without authentication"
    return f"{who}, {'over' if has_tls else 'without'} TLS"


def example_flags(settings: Settings) -> Flags:
    """Returns what grpcurl and buf curl take to call a server with these settings."""
    token = " -H 'authorization: Bearer TOKEN'" if settings.tokens or settings.jwt_keys else ""
    # Reflection takes the token too.
    both = token and f"{token} --reflect-header '*'"
    if settings.tls_certificate is None:
        return Flags("http", f"-plaintext{token}", f"--http2-prior-knowledge{both}")
    mutual = settings.tls_client_ca is not None
    grpcurl = "-cacert CA" + " -cert CERTIFICATE -key KEY" * mutual
    buf = "--cacert CA" + " --cert CERTIFICATE --key KEY" * mutual
    return Flags("https", grpcurl + token, buf + both)


def _check_together(settings: Settings) -> None:
    asks = _asks_who_calls(settings)
    pair = {settings.tls_certificate is None, settings.tls_key is None}
    jwt = {settings.jwt_keys is None, settings.jwt_issuer is None, settings.jwt_audience is None}
    if len(pair) > 1:
        raise SettingsError("--tls-certificate and --tls-key go together")
    if settings.tls_client_ca and not settings.tls_certificate:
        raise SettingsError("--tls-client-ca needs --tls-certificate and --tls-key")
    if len(jwt) > 1:
        raise SettingsError("--jwt-keys, --jwt-issuer and --jwt-audience go together")
    if asks and not settings.policy:
        raise SettingsError("--tokens, --jwt-keys and --tls-client-ca need a --policy")
    if settings.policy and not asks:
        raise SettingsError("--policy needs --tokens, --jwt-keys or --tls-client-ca")


def _asks_who_calls(settings: Settings) -> bool:
    return bool(settings.tokens or settings.jwt_keys or settings.tls_client_ca)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
