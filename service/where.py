"""The database that a command works on."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storage import embedded
from storage.dialects.urls import file_of, is_file, without_password

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.config import Settings

# What the embedded server keeps for superusers and people with psql.
SPARE_CONNECTIONS = 20
DEFAULT_MAX_CONNECTIONS = 100


class Where(NamedTuple):
    """A database.

    Args:
        url: for SQLAlchemy.
        shown: which one it is, for people, without its password.
        data: where its data is, for people.
    """

    url: str
    shown: str
    data: str


@contextmanager
def database(settings: Settings, *, share: bool) -> Iterator[Where]:
    """Yields the database of the settings, running the embedded one while the block lasts.

    Args:
        settings: of a server.
        share: whether a command may work on an embedded one that another command runs.

    Raises:
        EmbeddedError: when the embedded one does not run.
    """
    if settings.database_url is not None:
        url = settings.database_url
        data = str(Path(file_of(url)).resolve()) if is_file(url) else "on your own server"
        yield Where(url, without_password(url), data)
        return
    needed = settings.workers * settings.pool_limit + SPARE_CONNECTIONS
    told = {"max_connections": str(max(DEFAULT_MAX_CONNECTIONS, needed))}
    with embedded.running(settings.data_dir, settings=told, share=share) as endpoint:
        try:
            yield Where(
                endpoint.url,
                f"embedded PostgreSQL, psql '{endpoint.psql}'",
                str(settings.data_dir.resolve()),
            )
        finally:
            # The server writes down what it has: a second Ctrl-C must not leave it running.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
