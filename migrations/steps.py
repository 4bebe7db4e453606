"""What the steps of the history are made of, on every database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

from storage.dialects.types import MOMENT, clock

if TYPE_CHECKING:
    from collections.abc import Sequence


def moment(name: str) -> sa.Column[object]:
    """Returns a column of a moment by the database's clock."""
    return sa.Column(name, MOMENT, server_default=clock(), nullable=False)


def execute(
    *, postgresql: Sequence[str] = (), mysql: Sequence[str] = (), sqlite: Sequence[str] = ()
) -> None:
    """Runs the statements that are this database's."""
    spelt = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}
    for statement in spelt[op.get_context().dialect.name]:
        op.execute(statement)


def add_row_for_each_user(table: str) -> None:
    """Gives each user a row of a table, in the table's own defaults.

    A trigger that is there already does so for those who come meanwhile, and what is run again
    finds those whom it was run for before: whoever has a row is passed over.
    """
    op.execute(
        f"INSERT INTO {table} (user_id) SELECT id FROM users"  # noqa: S608 - a step's own words
        f" WHERE id NOT IN (SELECT user_id FROM {table})"
    )


def create_search_index(name: str, table: str, *columns: str) -> None:
    """Makes the index by which a part of a text is found; MariaDB has none such.

    On SQLite it is a table that keeps the trigrams and not the texts, which it reads off the other
    table. Triggers tell it of each change.
    """
    if op.get_context().dialect.name == "postgresql":
        # The trigrams of all columns as one text: most words are in more than one of them.
        texts: sa.ColumnElement[str] = sa.literal_column("(" + " || ' ' || ".join(columns) + ")")
        op.create_index(
            name,
            table,
            [texts.label("texts")],
            postgresql_using="gin",
            postgresql_ops={"texts": "gin_trgm_ops"},
        )
        return
    listed = ", ".join(columns)
    add = f"INSERT INTO {name} (rowid, {listed}) VALUES ({_row('NEW', columns)});"  # noqa: S608 - names of Byline's own
    # The index forgets what it is told that there was.
    remove = (
        f"INSERT INTO {name} ({name}, rowid, {listed})"  # noqa: S608 - names of Byline's own
        f" VALUES ('delete', {_row('OLD', columns)});"
    )
    changed = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in columns)
    execute(
        sqlite=[
            f"""
            CREATE VIRTUAL TABLE {name} USING fts5 (
              {listed}, content = '{table}', content_rowid = 'id', columnsize = 0,
              tokenize = 'trigram case_sensitive 1'
            )
            """,
            f"INSERT INTO {name} ({name}) VALUES ('rebuild')",  # noqa: S608 - names of Byline's own
            f"CREATE TRIGGER {name}_add AFTER INSERT ON {table} BEGIN {add} END",
            f"CREATE TRIGGER {name}_remove AFTER DELETE ON {table} BEGIN {remove} END",
            f"""
            CREATE TRIGGER {name}_change AFTER UPDATE OF {listed} ON {table} WHEN {changed}
            BEGIN {remove} {add} END
            """,
        ]
    )


def drop_search_index(name: str) -> None:
    """Drops what is left of a search index, and of its triggers, when its table is dropped."""
    execute(sqlite=[f"DROP TABLE {name}"])


def _row(which: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{which}.{column}" for column in ("id", *columns))
