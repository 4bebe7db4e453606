"""Who calls: a bearer token of a file, a JSON Web Token, or the client's certificate says it."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt

from service.errors import NotIdentified, TokenRefused
from service.keys import ALGORITHMS, Keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from grpc.aio import ServicerContext
    from jwt import PyJWK

    from service.files import Watched
    from service.keys import KeySource

    Context = ServicerContext[Any, Any]

# Who makes the call that is under way; empty where nobody has to say.
caller: ContextVar[str] = ContextVar("caller", default="")

AUTHORIZATION = "authorization"
BEARER = "bearer"
# What the database keeps of one.
LONGEST_IDENTITY = 255
# Tokens that are not checked again while they are good.
MOST_KNOWN = 4096
REQUIRED_CLAIMS = ["exp", "iss", "aud", "sub"]
_LINE = re.compile(r"([0-9a-f]{64})\s+(\S+)")
# What a token's holder is told. Its signature was right where the words are about what it says.
_WHY = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidIssuerError: "the token is from another issuer",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.MissingRequiredClaimError: "the token lacks one of " + ", ".join(REQUIRED_CLAIMS),
}
_UNKNOWN = "the token is not known"
_BADLY_SIGNED = "the token is not signed by a key and in a way that count here"


class Tokens:
    """The tokens that a file lists, of which it has only the digests.

    Args:
        content: a line `DIGEST IDENTITY` for each, the SHA-256 of a token in hex and whose it is.
            Empty lines and those that start with `#` say nothing.

    Raises:
        ValueError: names the line that is not so.
    """

    def __init__(self, content: bytes) -> None:
        self._blind = secrets.token_bytes()
        self._identities: dict[bytes, str] = {}
        for number, line in enumerate(content.decode().splitlines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = _LINE.fullmatch(text)
            if found is None or not _is_name(found[2]):
                raise ValueError(f"line {number} is not the SHA-256 of a token and an identity")
            self._identities[self._blinded(bytes.fromhex(found[1]))] = found[2]

    def find(self, token: str) -> str | None:
        """Returns whose token it is, if it is anybody's."""
        return self._identities.get(self._blinded(sha256(token.encode()).digest()))

    def _blinded(self, digest: bytes) -> bytes:
        # How long the look-up takes depends on this alone, and only this process can work it out.
        return hmac.digest(self._blind, digest, "sha256")


class _Checked(NamedTuple):
    identity: str
    until: float


class SignedTokens:
    """JSON Web Tokens.

    Args:
        keys: what they are signed with.
        issuer: their `iss`.
        audience: one of their `aud`.
        skew: seconds by which clocks may differ.
    """

    def __init__(self, keys: KeySource, *, issuer: str, audience: str, skew: float) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._skew = skew
        # A signature takes 250 us to check, and a caller sends the same token with many calls.
        self._checked: dict[str, _Checked] = {}
        self._checked_with: Keys = ()

    async def identify(self, token: str) -> str:
        """Returns the `sub` of a token that counts.

        Raises:
            TokenRefused: when it does not count.
            KeysUnreachable: when no key is known to check it with.
        """
        keys = self._keys.current()
        if keys is not self._checked_with or len(self._checked) >= MOST_KNOWN:
            self._checked.clear()
            self._checked_with = keys
        known = self._checked.get(token)
        if known is not None and time.time() < known.until:
            return known.identity
        key = _signing_key(token, keys) or _signing_key(token, await self._keys.renewed())
        if key is None:
            raise TokenRefused(_BADLY_SIGNED)
        checked = self._check(token, key)
        if self._keys.current() is self._checked_with:
            self._checked[token] = checked
        return checked.identity

    def _check(self, token: str, key: PyJWK) -> _Checked:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._skew,
                options={"require": REQUIRED_CLAIMS, "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(_WHY.get(type(error), _BADLY_SIGNED)) from None
        if not _is_name(claims["sub"]):
            raise TokenRefused("the token's sub is no name")
        return _Checked(claims["sub"], int(claims["exp"]) + self._skew)


class Identifier:
    """Tells who makes a call. A bearer token, where there is one, counts over the certificate.

    Args:
        tokens: those of a file.
        signed: JSON Web Tokens.
        certificates: whether clients have certificates, which TLS has checked.
    """

    def __init__(
        self,
        tokens: Watched[Tokens] | None,
        signed: SignedTokens | None,
        *,
        certificates: bool,
    ) -> None:
        self._tokens = tokens
        self._signed = signed
        self._certificates = certificates

    async def identify(self, context: Context) -> str:
        """Returns who makes a call.

        Raises:
            NotIdentified: when nothing says it.
            TokenRefused: when a token says it that does not count.
        """
        token = _bearer_token(context)
        if token is not None:
            return await self._holder(token)
        name = _name_in_certificate(context) if self._certificates else None
        if name is None:
            raise NotIdentified
        return name

    async def _holder(self, token: str) -> str:
        identity = self._tokens.current().find(token) if self._tokens else None
        if identity is None and self._signed:
            identity = await self._signed.identify(token)
        if identity is None:
            raise TokenRefused(_UNKNOWN)
        return identity


def _bearer_token(context: Context) -> str | None:
    given = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
    if not given:
        return None
    scheme, _, token = str(given[0]).partition(" ")
    if len(given) > 1 or scheme.lower() != BEARER:
        raise TokenRefused("authorization is not one bearer token")
    return token.strip()


def _signing_key(token: str, keys: Iterable[PyJWK]) -> PyJWK | None:
    """Returns the key that a token is to be signed with: the only one, where it names none."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise TokenRefused(_UNKNOWN) from None
    algorithm, key_id = str(header.get("alg")), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise TokenRefused(_BADLY_SIGNED)
    fitting = [
        key for key in keys if key.algorithm_name == algorithm and key_id in {None, key.key_id}
    ]
    return fitting[0] if len(fitting) == 1 else None


def _name_in_certificate(context: Context) -> str | None:
    """Returns the SPIFFE id of the client's certificate, or else its first DNS name."""
    told: Mapping[str, Iterable[bytes]] = context.auth_context()
    for kind in ("peer_spiffe_id", "peer_dns"):
        for value in told.get(kind, ()):
            name = value.decode(errors="replace")
            if _is_name(name):
                return name
    return None


def _is_name(text: str) -> bool:
    """Tells whether a text can be an identity: one that a log can show and the database keep."""
    return 0 < len(text) <= LONGEST_IDENTITY and text.isprintable()
