"""Steps on MariaDB, which commits each change of the schema by itself.

A step that is cut short stays half made there, at the revision before it. So each of its statements
is one that can be run again, and the table of the revision tells where the migrator was bound for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.ddl.mysql import MySQLImpl
from alembic.util import CommandError
from sqlalchemy import inspect
from sqlalchemy.schema import SetTableComment

from migrations.revisions import BASE, following, is_before, preceding

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, CursorResult, Dialect

VERSION_TABLE = "alembic_version"
_BOUND_FOR = "bound for "


class RepeatableSteps(MySQLImpl):
    """What Alembic's operations do on MariaDB: what is there is not made, nor dropped what is not.

    Alembic takes it, once it is defined, for every database of this name.
    """

    __dialect__ = "mysql"

    def __init__(self, dialect: Dialect, *options: Any) -> None:  # noqa: ANN401 - as Alembic has it
        super().__init__(dialect, *options)
        if self.as_sql:
            # Which it learns from a server otherwise.
            dialect.supports_native_uuid = True

    def _exec(self, construct: Any, *options: Any, **more: Any) -> CursorResult[Any] | None:  # noqa: ANN401 - as Alembic has it
        for condition in ("if_exists", "if_not_exists"):
            if hasattr(construct, condition):
                setattr(construct, condition, True)
        return super()._exec(construct, *options, **more)

    def static_output(self, text: str) -> None:
        """Writes a statement to a script, whose reader takes a `;` within it for its end."""
        statement = text.removesuffix(self.command_terminator)
        if ";" in statement:
            text = f"DELIMITER //\n{statement} //\nDELIMITER ;"
        super().static_output(text)


def bound_for(connection: Connection) -> str | None:
    """Returns where the migrator before was bound for, if one has been at work: `base`, `0003`.

    The database is at that revision, unless the migrator is at work still or was cut short.
    """
    seen = inspect(connection)
    if not seen.has_table(VERSION_TABLE):
        return None
    comment = seen.get_table_comment(VERSION_TABLE)["text"] or ""
    return comment.removeprefix(_BOUND_FOR) if comment.startswith(_BOUND_FOR) else None


def set_out(migration: MigrationContext, connection: Connection, goal: str, *, up: bool) -> None:
    """Writes down where a migrator is bound for, which has the database to itself.

    Args:
        migration: Alembic's, of the run.
        connection: the migrator's.
        goal: the revision.
        up: whether steps are made, or taken back.

    Raises:
        CommandError: when a step was cut short the other way.
    """
    current = migration.get_current_revision() or BASE
    before = bound_for(connection) or current
    if is_before(before, current) and up:
        raise CommandError(_cut_short(current, preceding(current), "down"))
    if is_before(current, before) and not up:
        raise CommandError(_cut_short(current, following(current), "up"))
    if is_before(current, goal) if up else is_before(goal, current):
        table = migration.impl.version_table_impl(
            version_table=VERSION_TABLE, version_table_schema=None, version_table_pk=True
        )
        table.create(connection, checkfirst=True)
        table.comment = f"{_BOUND_FOR}{goal}"
        connection.execute(SetTableComment(table))
    connection.commit()


def _cut_short(current: str, goal: str, way: str) -> str:
    return (
        f"a step from {current} {way} to {goal} was cut short: complete it first, by "
        f"`byline migrate {way} {goal}` of the Byline that began it"
    )
