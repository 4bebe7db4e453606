"""The schema's history, and the four things one does with it: up, down, status and sql.

These functions run Alembic, which is synchronous: call them outside an event loop.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Any fixed number: every migrator of every Byline takes the same advisory lock.
MIGRATION_LOCK = 0x42594C494E45
# Seconds that a step waits for a table. Those who use the table wait behind the step meanwhile.
LOCK_TIMEOUT = 5.0


class MigrationError(Exception):
    """The schema could not be looked at or changed; the message says why."""


class State(StrEnum):
    """Where a database stands against the schema that this code expects."""

    CURRENT = "current"
    BEHIND = "behind"
    AHEAD = "ahead"


class Status(NamedTuple):
    """A database's schema against the code's.

    Args:
        state: where the database stands.
        current: the database's revision; None when it has none yet.
        head: the revision that this code expects.
        pending: the revisions between, oldest first, each with its title.
    """

    state: State
    current: str | None
    head: str
    pending: tuple[tuple[str, str], ...]


def up(url: str, revision: str = "head") -> None:
    """Brings the schema up to a revision; a database that is there already is left alone."""
    with _explained():
        command.upgrade(_config(url), revision)


def down(url: str, revision: str = "-1") -> None:
    """Takes the schema back to a revision: `-1` is one step, `base` is all of them."""
    with _explained():
        command.downgrade(_config(url), revision)


def sql(url: str, revisions: str = "head") -> str:
    """Returns the SQL that `up` would run, without running it.

    Args:
        url: tells the kind of database; nothing is connected to.
        revisions: where to, or `from:to`.
    """
    output = io.StringIO()
    with _explained():
        command.upgrade(_config(url, output), revisions, sql=True)
    return output.getvalue()


def status(url: str) -> Status:
    """Returns where the database's schema stands."""
    config = _config(url)
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head() or "base"
    current = _current_revision(config)
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        return Status(State.AHEAD, current, head, ())
    pending = tuple(
        (revision.revision, revision.doc)
        for revision in reversed(list(script.iterate_revisions(head, current)))
    )
    return Status(State.BEHIND if pending else State.CURRENT, current, head, pending)


def check(url: str) -> None:
    """Raises `MigrationError` when the models and the migrated database differ."""
    with _explained():
        command.check(_config(url))


def _config(url: str, output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output, stdout=output or io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    config.attributes["lock_timeout"] = LOCK_TIMEOUT
    return config


def _current_revision(config: Config) -> str | None:
    """Asks the database through env.py, which knows how to connect."""
    found: list[str | None] = []
    config.attributes["report_revision"] = found.append
    with _explained():
        command.current(config)
    return found[0] if found else None


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what Alembic, the driver or the network raise into `MigrationError`."""
    try:
        yield
    except (CommandError, SQLAlchemyError, ValueError) as error:
        # "(sqlalchemy.dialects.postgresql.asyncpg.Error) " tells a reader nothing.
        text = re.sub(r"^\(\S+\) (<class \S+>: )?", "", str(error))
        raise MigrationError(text.partition("\n")[0]) from error
    except OSError as error:
        raise MigrationError(f"the database cannot be reached: {error}") from error
