"""Who calls: the tokens of a file, JSON Web Tokens, and the keys that these are checked with."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service import keys
from service.errors import KeysUnreachable, TokenRefused
from service.identity import LONGEST_IDENTITY, SignedTokens, Tokens
from service.keys import FetchedKeys, KeysInFile, read_keys
from tests.certificates import AUDIENCE, ISSUER, SigningKey, jwks, token_line
from tests.processes import until

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import EventDict

    from service.keys import Keys
    from tests.service.conftest import LogOf

SKEW = 30
BADLY_SIGNED = "the token is not signed by a key and in a way that count here"


class Known:
    """Keys that do not change until a test has them change."""

    def __init__(self, *known: SigningKey) -> None:
        self.keys = read_keys(jwks(*known))

    def current(self) -> Keys:
        return self.keys

    async def renewed(self) -> Keys:
        return self.keys


class Issuer:
    """Who has a JWKS fetched from it.

    Args:
        known: its keys.
    """

    def __init__(self, *known: SigningKey) -> None:
        self.content = jwks(*known)
        self.fetches = 0
        self.is_away = False

    def __call__(self) -> bytes:
        self.fetches += 1
        if self.is_away:
            raise ConnectionRefusedError("nobody is there")
        return self.content


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture
def lines(log_of: LogOf) -> list[EventDict]:
    return log_of(keys)


def signed(source: keys.KeySource) -> SignedTokens:
    return SignedTokens(source, issuer=ISSUER, audience=AUDIENCE, skew=SKEW)


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


async def why_not(tokens: SignedTokens, token: str) -> str:
    """Returns why a token does not count."""
    with pytest.raises(TokenRefused) as refused:
        await tokens.identify(token)
    return str(refused.value)


# Tokens of a file


def test_a_token_is_whose_its_digest_says() -> None:
    text = f"# ours\n\n{token_line('open sesame', 'web')}  {token_line('two', 'a/b')}"
    tokens = Tokens(text.encode())
    assert [tokens.find(each) for each in ("open sesame", "two", "three", "")] == [
        *("web", "a/b"),
        *(None, None),
    ]


def test_a_digest_is_no_token() -> None:
    line = token_line("open sesame", "web")
    assert Tokens(line.encode()).find(line.split()[0]) is None


@pytest.mark.parametrize(
    "line",
    [
        "web",
        "0" * 64,
        f"{'0' * 63} web",
        f"{'0' * 65} web",
        f"{'x' * 64} web",
        f"{'0' * 64} web two",
        f"{'0' * 64} web\x1b[2J",
        f"{'0' * 64} {'x' * (LONGEST_IDENTITY + 1)}",
    ],
)
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not the SHA-256 of a token and an identity"):
        Tokens(f"# ours\n{line}\n".encode())


# JSON Web Tokens


@pytest.mark.parametrize("algorithm", sorted(keys.ALGORITHMS))
async def test_a_token_of_each_algorithm_says_who_its_holder_is(algorithm: str) -> None:
    signing = SigningKey(algorithm)
    tokens = signed(Known(signing))
    for _ in "12":
        assert await tokens.identify(signing.sign("web")) == "web"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 0}, "the token has expired"),
        ({"exp": None}, "the token lacks one of exp, iss, aud, sub"),
        ({"nbf": 1 << 40}, "the token is not valid yet"),
        ({"iat": 1 << 40}, "the token is not valid yet"),
        ({"iss": "https://other.example.com"}, "the token is from another issuer"),
        ({"iss": None}, "the token lacks one of exp, iss, aud, sub"),
        ({"aud": "other"}, "the token is for another audience"),
        ({"aud": None}, "the token lacks one of exp, iss, aud, sub"),
        ({"sub": None}, "the token lacks one of exp, iss, aud, sub"),
        ({"sub": ""}, "the token's sub is no name"),
        ({"sub": "a\nb"}, "the token's sub is no name"),
        ({"sub": "x" * (LONGEST_IDENTITY + 1)}, "the token's sub is no name"),
    ],
)
async def test_a_token_whose_claims_do_not_hold_is_refused(
    key: SigningKey, claims: dict[str, object], reason: str
) -> None:
    assert await why_not(signed(Known(key)), key.sign("web", **claims)) == reason


async def test_clocks_may_differ_by_so_much(key: SigningKey) -> None:
    tokens, now = signed(Known(key)), time.time()
    for claims in ({"exp": now - SKEW / 2}, {"nbf": now + SKEW / 2}):
        assert await tokens.identify(key.sign("web", **claims)) == "web"
    for claims in ({"exp": now - SKEW * 2}, {"nbf": now + SKEW * 2}):
        await why_not(tokens, key.sign("web", **claims))


async def test_one_of_several_audiences_is_enough(key: SigningKey) -> None:
    token = key.sign("web", aud=["other", AUDIENCE])
    assert await signed(Known(key)).identify(token) == "web"


async def test_a_token_that_was_good_expires_all_the_same(key: SigningKey) -> None:
    tokens = SignedTokens(Known(key), issuer=ISSUER, audience=AUDIENCE, skew=0)
    token = key.sign("web", exp=time.time() + 3)
    assert await tokens.identify(token) == "web"

    async def has_ended() -> bool:
        try:
            return await tokens.identify(token) != "web"
        except TokenRefused as refused:
            return str(refused) == "the token has expired"

    await until(has_ended)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS384", "HS512"])
async def test_neither_none_nor_an_hmac_is_a_signature(key: SigningKey, algorithm: str) -> None:
    header = {"alg": algorithm, "typ": "JWT", "kid": key.key_id}
    body = key.sign("web").split(".")[1]
    said = f"{_base64(json.dumps(header).encode())}.{body}"
    # With the public key, which anybody knows.
    public = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    hashes = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
    made = hashes.get(algorithm)
    signature = hmac.digest(public, said.encode(), made) if made else b""
    token = f"{said}.{_base64(signature)}"
    assert await why_not(signed(Known(key)), token) == BADLY_SIGNED


async def test_a_set_without_a_key_that_can_be_used_is_none(key: SigningKey) -> None:
    shared = {"kty": "oct", "k": _base64(b"x" * 64), "kid": "first", "alg": "HS256"}
    for content in (
        *(b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [7]}', b'{"keys": 7}'),
        json.dumps({"keys": [shared]}).encode(),
        json.dumps({"keys": [key.jwk | {"use": "enc"}]}).encode(),
    ):
        with pytest.raises(ValueError, match="there is no JWKS with a key"):
            read_keys(content)


async def test_the_key_is_the_one_that_the_token_names_and_of_its_algorithm(
    key: SigningKey,
) -> None:
    same_name, other = SigningKey("RS256"), SigningKey(key_id="second")
    tokens = signed(Known(key, same_name, other))
    for each in (key, same_name, other):
        assert await tokens.identify(each.sign("web")) == "web"
    foreign = SigningKey()
    assert await why_not(tokens, foreign.sign("web")) == BADLY_SIGNED


@pytest.mark.parametrize(
    "text", ["", "a", "a.b.c", "..", "é.é.é", "W10.W10.", "eyJhbGciOltdfQ.e30."]
)
async def test_what_is_no_token_is_refused(key: SigningKey, text: str) -> None:
    await why_not(signed(Known(key)), text)


async def test_an_altered_token_is_refused(key: SigningKey) -> None:
    head, _, signature = key.sign("web").split(".")
    body = key.sign("root").split(".")[1]
    assert await why_not(signed(Known(key)), f"{head}.{body}.{signature}") == BADLY_SIGNED


async def test_a_token_is_not_good_for_longer_than_its_key(key: SigningKey) -> None:
    source = Known(key)
    tokens, token = signed(source), key.sign("web")
    assert await tokens.identify(token) == "web"
    source.keys = read_keys(jwks(SigningKey(key_id="second")))
    assert await why_not(tokens, token) == BADLY_SIGNED


# Keys


async def test_keys_of_a_file_change_with_it(
    key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, second = tmp_path / "jwks.json", SigningKey(key_id="second")
    path.write_bytes(jwks(key))
    tokens = signed(KeysInFile(path))
    assert await tokens.identify(key.sign("web")) == "web"
    path.write_bytes(jwks(second))
    monkeypatch.setattr("service.files.monotonic", lambda: time.monotonic() + 60)
    assert await tokens.identify(second.sign("web")) == "web"
    assert await why_not(tokens, key.sign("web")) == BADLY_SIGNED


async def test_keys_are_fetched_once_for_all_who_need_them(key: SigningKey) -> None:
    issuer = Issuer(key)
    tokens = signed(FetchedKeys(issuer))
    names = await asyncio.gather(*(tokens.identify(key.sign(f"web-{each}")) for each in range(9)))
    assert names == [f"web-{each}" for each in range(9)]
    assert issuer.fetches == 1


async def test_a_key_that_is_not_known_is_fetched_but_not_for_each_token(
    key: SigningKey, lines: list[EventDict]
) -> None:
    issuer, second = Issuer(key), SigningKey(key_id="second")
    eager, patient = (signed(FetchedKeys(issuer, cooldown=each)) for each in (0, 60))
    for tokens in (eager, patient):
        assert await tokens.identify(key.sign("web")) == "web"
    issuer.content = jwks(key, second)
    assert await eager.identify(second.sign("web")) == "web"
    before = issuer.fetches
    for _ in range(9):
        assert await why_not(patient, second.sign("web")) == BADLY_SIGNED
    assert issuer.fetches == before
    assert [line["ids"] for line in lines] == [["first"], ["first"], ["first", "second"]]


async def test_old_keys_count_while_others_are_fetched(key: SigningKey) -> None:
    issuer = Issuer(key)
    source = FetchedKeys(issuer, lifetime=0)
    tokens = signed(source)
    assert await tokens.identify(key.sign("web")) == "web"
    issuer.content = jwks(SigningKey(key_id="second"))
    assert await tokens.identify(key.sign("web")) == "web"
    await until(lambda: source.current()[0].key_id == "second")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("is_away", "nobody is there"), ("content", "there is no JWKS")],
)
async def test_an_issuer_that_fails_leaves_the_keys_that_are_known(
    key: SigningKey, lines: list[EventDict], broken: str, reason: str
) -> None:
    issuer = Issuer(key)
    source = FetchedKeys(issuer, cooldown=0)
    await source.renewed()
    setattr(issuer, broken, b"nothing of the kind")
    (known,) = await source.renewed()
    assert known.key_id == "first"
    assert lines[-1]["reason"].startswith(reason)


async def test_without_any_key_the_server_is_at_fault(key: SigningKey) -> None:
    issuer = Issuer(key)
    issuer.is_away = True
    tokens = signed(FetchedKeys(issuer, cooldown=0))
    with pytest.raises(KeysUnreachable):
        await tokens.identify(key.sign("web"))
    issuer.is_away = False
    assert await tokens.identify(key.sign("web")) == "web"
