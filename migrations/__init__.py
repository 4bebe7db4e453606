"""The schema's history, and the four things one does with it: up, down, status and sql.

These functions run Alembic, which is synchronous: call them outside an event loop.
"""

from __future__ import annotations

import io
import random
import re
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from migrations.revisions import BASE, following, is_before
from storage.errors import Contention, LockTimeout, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Seconds that a step waits for a table. Those who use the table wait behind the step meanwhile.
LOCK_TIMEOUT = 1.0
# A statement of a server's has a table for half a minute at most: so often a step is tried, and so
# many seconds, more or less, are between two tries for those who waited behind it.
LOCK_ATTEMPTS = 20
LOCK_PAUSE = 1.0


class MigrationError(Exception):
    """The schema could not be looked at or changed; the message says why."""


class State(StrEnum):
    """Where a database stands against the schema that this code expects.

    One that is at the next step this code still serves: each step leaves what the code before it
    needs. Further ahead, what it needs may be gone. Halfway, a step is being taken back, and what
    it made may be gone: this happens where the database commits each statement by itself, and ends
    when the step is completed. A step up that is half made is in nobody's way.
    """

    CURRENT = "current"
    BEHIND = "behind"
    HALFWAY = "halfway"
    NEXT = "next"
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
    """Brings the schema up to a revision; a database that is there already is left alone.

    A step that finds a table in use lets its users pass, and is tried again.

    Raises:
        MigrationError: when a step fails, or found a table in use each time. The steps before it
            are done.
    """
    _change(command.upgrade, url, revision, up=True)


def down(url: str, revision: str = "-1") -> None:
    """Takes the schema back to a revision: `-1` is one step, `base` is all of them.

    Raises:
        MigrationError: as `up` does.
    """
    _change(command.downgrade, url, revision, up=False)


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
    script = ScriptDirectory.from_config(_config(url))
    head = script.get_current_head() or "base"
    with _explained():
        current, bound_for = _where(url)
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        state = State.NEXT if current == following(head) else State.AHEAD
        return Status(state, current, head, ())
    pending = tuple(
        (revision.revision, revision.doc)
        for revision in reversed(list(script.iterate_revisions(head, current)))
    )
    if current and bound_for and is_before(bound_for, current):
        return Status(State.HALFWAY, current, head, pending)
    return Status(State.BEHIND if pending else State.CURRENT, current, head, pending)


def check(url: str) -> None:
    """Raises `MigrationError` when the models and the migrated database differ."""
    with _explained():
        command.check(_config(url))


def _change(change: Callable[[Config, str], None], url: str, revision: str, *, up: bool) -> None:
    """Runs a change of the schema, again while somebody is in its way."""
    target = None
    with _explained():
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                target = target or _absolute(url, revision)
                config = _config(url)
                config.attributes["goal"] = {"goal": target, "up": up}
                return change(config, target)
            except DBAPIError as error:
                in_the_way = isinstance(translate(error), (LockTimeout, Contention))
                if attempt == LOCK_ATTEMPTS or not in_the_way:
                    raise
            time.sleep(LOCK_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
    return None


def _absolute(url: str, revision: str) -> str:
    """Names the revision that `head` means, or `-1`: after a step, that means another one."""
    script = ScriptDirectory.from_config(_config(url))
    if not re.fullmatch(r"[+-]\d+", revision):
        return revision if revision == BASE else script.get_revision(revision).revision
    history = [BASE, *(each.revision for each in reversed(list(script.walk_revisions())))]
    current = _where(url)[0] or BASE
    place = history.index(current) + int(revision) if current in history else -1
    if not 0 <= place < len(history):
        raise MigrationError(f"there is no {revision} from {current}")
    return history[place]


def _config(url: str, output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output, stdout=output or io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    config.attributes["lock_timeout"] = LOCK_TIMEOUT
    return config


def _where(url: str) -> tuple[str | None, str | None]:
    """Asks the database where it is, and where it is bound for, through env.py."""
    found: tuple[str | None, str | None] = (None, None)

    def report(*places: str | None) -> None:
        nonlocal found
        found = (places[0], places[1])

    config = _config(url)
    config.attributes["report"] = report
    command.current(config)
    return found


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
