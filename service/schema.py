"""Whether this code can serve the schema of a database, and how it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import migrations
from migrations import State
from storage.dialects.urls import is_file

if TYPE_CHECKING:
    from service.config import Settings

# How a schema may stand that this code serves: one step up changes nothing that it stands on.
SERVED = {State.CURRENT, State.NEXT}


class SchemaUnfit(Exception):
    """This code cannot serve the schema, for the reason in the message."""


def ensure(settings: Settings, url: str) -> str:
    """Brings a schema to where this code can serve it, if it is not and the settings allow it.

    Args:
        settings: of the server.
        url: of its database.

    Returns:
        At which revision the schema is, for people.

    Raises:
        SchemaUnfit: when this code cannot serve it, and may not or cannot change it.
        MigrationError: when it could not be looked at or changed.
    """
    status = migrations.status(url)
    if is_to_migrate(settings, status):
        migrations.up(url)
        status = migrations.status(url)
    match status.state:
        case State.CURRENT:
            return status.head
        case State.NEXT:
            return f"{status.current}, one step ahead of {status.head}"
        case _:
            raise SchemaUnfit(described(status))


def is_to_migrate(settings: Settings, status: migrations.Status) -> bool:
    """Tells whether serving brings a schema up to date that stands so."""
    # Nobody but Byline looks after these two.
    is_its_own = settings.database_url is None or is_file(settings.database_url)
    return (settings.migrate or is_its_own) and status.state is State.BEHIND


def described(status: migrations.Status) -> str:
    """Says how a schema stands, and which command mends it."""
    match status.state:
        case State.CURRENT:
            return "up to date"
        case State.BEHIND:
            return (
                f"the schema is behind ({status.current or 'empty'}, this Byline expects "
                f"{status.head}); run `byline migrate up`, or serve with --migrate"
            )
        case State.HALFWAY:
            return (
                f"a step down from {status.current} is under way or was cut short; run "
                "`byline migrate down` to complete it"
            )
        case State.NEXT:
            return (
                f"the schema is one step ahead ({status.current}, this Byline expects "
                f"{status.head}), and served as it is; the Byline that made it takes it back with "
                f"`byline migrate down {status.head}`"
            )
        case State.AHEAD:
            return (
                f"the schema is ahead ({status.current}, this Byline expects {status.head}); "
                "run the Byline that made it, or with that one "
                f"`byline migrate down {status.head}`"
            )
