"""Claims ports before there is a server on them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.config import Address


class CannotListen(Exception):
    """Somebody else has an address, or nobody can have it."""


def reserve(address: Address) -> tuple[socket.socket, Address]:
    """Claims a port, so that nobody else's server shares it.

    Args:
        address: where a server is to listen; port 0 asks for one that is free.

    Returns:
        The socket that claims it, beside which workers can share the port, and the address with
        the port.

    Raises:
        CannotListen: when the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        # A port that an ended connection still holds may be listened on; a server's may not.
        with _bound(family, address, socket.SO_REUSEADDR) as first:
            address = address._replace(port=first.getsockname()[1])
        try:
            return _bound(family, address, socket.SO_REUSEPORT), address
        except OSError:
            # Those that a server of one worker ended, which shares its port with nobody.
            return _bound(family, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR), address
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror}") from None


def _bound(family: socket.AddressFamily, address: Address, *options: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
