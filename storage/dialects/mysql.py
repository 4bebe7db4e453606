"""What MariaDB's driver is held to, so that nothing is sent that a transaction does not need."""

from __future__ import annotations

from typing import Any

from asyncmy import connection as driver


class Connection(driver.Connection):
    """A connection that is in autocommit until a transaction is begun by a statement."""

    async def rollback(self) -> None:
        """Rolls back, if there is what to roll back."""
        # The pool has every connection that comes back rolled back, and most have ended by then.
        if self.get_transaction_status():
            await super().rollback()

    def character_set_name(self) -> None:
        """Names none."""
        # SQLAlchemy would SET NAMES to it, which was said in the handshake, and which takes the
        # collation back that the connection was told.


async def connect(**options: Any) -> Connection:  # noqa: ANN401 - as the driver has them
    """Opens a connection."""
    connection = Connection(**options)  # type: ignore[no-untyped-call]  # so its stubs say
    await connection.connect()
    return connection
