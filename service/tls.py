"""TLS: the server's certificate, and which clients' it takes, as the files are at a handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.files import Watched

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from grpc import ServerCertificateConfiguration


class Validity(NamedTuple):
    """A time from a moment to another."""

    begin: datetime
    end: datetime


def credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Returns what a secure port is opened with. gRPC takes TLS 1.2 and later.

    A handshake takes the files as they are then; connections that are there stay.

    Args:
        certificate: the server's, with those between it and its root, in PEM.
        key: the certificate's private key, in PEM, without a password.
        client_ca: certificates in PEM, one of which every client's must come from; None asks no
            client for one.

    Raises:
        FileError: when a file cannot be read, or certificate and key are no pair.
    """
    paths = [certificate, key, *([client_ca] if client_ca else [])]
    watched = Watched(_read, *paths, every=0)
    given = watched.current()

    def changed() -> ServerCertificateConfiguration | None:
        """Called by gRPC before each handshake, in a thread of its own; None is for no change."""
        nonlocal given
        before, given = given, watched.current()
        return None if given is before else given

    return grpc.dynamic_ssl_server_credentials(
        given,
        changed,  # type: ignore[arg-type] # its types leave None out
        require_client_authentication=client_ca is not None,
    )


def validity(certificates: Path) -> Validity:
    """Returns when all certificates of a file are valid.

    Raises:
        FileError: when it cannot be read.
    """
    found = Watched(_certificates, certificates).current()
    return Validity(
        max(each.not_valid_before_utc for each in found),
        min(each.not_valid_after_utc for each in found),
    )


def _read(
    certificate: bytes, key: bytes, client_ca: bytes | None = None
) -> ServerCertificateConfiguration:
    """Reads the files' contents. gRPC would take what does not fit, and fail handshakes by it."""
    public = _certificates(certificate)[0].public_key()
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the key is no private key in PEM without a password") from None
    if private.public_key() != public:
        raise ValueError("the key is not the certificate's")
    if client_ca is not None:
        _certificates(client_ca)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _certificates(content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError("there is no certificate in PEM") from None
