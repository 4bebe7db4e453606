"""Certificates and tokens as those have them who call, and the files that a server has of them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

ISSUER, AUDIENCE = "https://issuer.example.com", "byline"
A_DAY = timedelta(days=1)
SERVER = (x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost"))


class Pair(NamedTuple):
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Who issues certificates."""

    def __init__(self, name: str = "an authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._numbers = iter(range(1, 1_000_000))
        self.certificate = self._issue(self._name, self._key, (), is_authority=True)

    def issue(self, *names: x509.GeneralName, begins: timedelta = -A_DAY) -> Pair:
        """Issues a certificate to a new key, for the names in its SAN and 30 days from a moment."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Pair(self._issue(_named("whoever"), key, names, begins=begins), _pem(key))

    def issue_to(self, key: PrivateKey, *names: x509.GeneralName) -> Pair:
        """Issues a certificate to a key."""
        return Pair(self._issue(_named("whoever"), key, names), _pem(key))

    def _issue(
        self,
        subject: x509.Name,
        key: PrivateKey,
        names: Iterable[x509.GeneralName],
        *,
        is_authority: bool = False,
        begins: timedelta = -A_DAY,
    ) -> bytes:
        begin = datetime.now(UTC) + begins
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(next(self._numbers))
            .not_valid_before(begin)
            .not_valid_after(begin + 30 * A_DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class TlsFiles:
    """The files that a server serves TLS with."""

    folder: Path

    @property
    def settings(self) -> dict[str, Path]:
        """The settings that name them, but for the clients' authority."""
        return {"tls_certificate": self.folder / "tls.crt", "tls_key": self.folder / "tls.key"}

    @property
    def mutual(self) -> dict[str, Path]:
        """The settings that name them all."""
        return self.settings | {"tls_client_ca": self.folder / "clients.crt"}

    def write(self, pair: Pair, client_ca: bytes | None = None) -> None:
        """Writes the files, each at once, as those do who rotate them."""
        written = {"tls.crt": pair.certificate, "tls.key": pair.key, "clients.crt": client_ca}
        for name, content in written.items():
            if content is not None:
                put(self.folder / name, content)


class SigningKey:
    """A key that tokens are signed with.

    Args:
        algorithm: how they are signed.
        key_id: what the key is called.
    """

    def __init__(self, algorithm: str = "ES256", key_id: str = "first") -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.private = _private_key(algorithm)

    @cached_property
    def jwk(self) -> dict[str, Any]:
        """The public key, as a JWKS lists it."""
        public: Any = self.private.public_key()
        kinds: dict[str, Any] = {"RS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
        made: dict[str, Any] = kinds[self.algorithm[:2]].to_jwk(public, as_dict=True)
        return made | {"kid": self.key_id, "alg": self.algorithm, "use": "sig"}

    def sign(self, identity: str, **claims: object) -> str:
        """Returns a token that says who its holder is; a claim that is None is left out."""
        said = {"sub": identity, "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 3600}
        payload = {name: value for name, value in (said | claims).items() if value is not None}
        return jwt.encode(payload, self.private, self.algorithm, headers={"kid": self.key_id})


def jwks(*keys: SigningKey) -> bytes:
    """Returns the set of these keys."""
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


def token_line(token: str, identity: str) -> str:
    """Returns the line of a file of tokens."""
    return f"{sha256(token.encode()).hexdigest()} {identity}\n"


def bearer(token: str) -> tuple[tuple[str, str]]:
    """Returns the metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)


def put(path: Path, content: bytes) -> None:
    """Writes a file at once: nobody sees half of it."""
    beside = path.with_suffix(".beside")
    beside.write_bytes(content)
    beside.replace(path)


def channel_credentials(root: bytes, client: Pair | None = None) -> grpc.ChannelCredentials:
    """Returns what a client connects with that trusts an authority."""
    key, chain = (client.key, client.certificate) if client else (None, None)
    return grpc.ssl_channel_credentials(root, key, chain)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _private_key(algorithm: str) -> PrivateKey:
    match algorithm[:2]:
        case "RS":
            return rsa.generate_private_key(65537, 2048)
        case "ES":
            curves = {"256": ec.SECP256R1(), "384": ec.SECP384R1(), "512": ec.SECP521R1()}
            return ec.generate_private_key(curves[algorithm[2:]])
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
