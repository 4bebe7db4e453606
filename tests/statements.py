"""What is sent to the database: by Byline, to be looked at, and by a test, to look."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from asyncpg import PostgresError
from sqlalchemy import event, inspect, select, text, update

from storage.dialects.postgresql import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from sqlalchemy import CursorResult
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from storage.database import Database
    from storage.moments import Moment


async def run(db: Database, statement: str, **values: object) -> CursorResult[Any]:
    """Runs a statement that is not Byline's own, in a transaction of its own."""
    async with db.transaction() as tx:
        # Of what is no statement of SQLAlchemy's own, it is SQLAlchemy that answers.
        return cast("CursorResult[Any]", await tx.execute(text(statement), values))


async def set_moments(
    db: Database,
    column: InstrumentedAttribute[Moment],
    moment_of: Callable[[int, Moment], Moment],
) -> None:
    """Gives rows another moment, which depends on their key and on the one that they have."""
    key = inspect(column.class_).primary_key[0]
    async with db.transaction() as tx:
        found: Sequence[Any] = (await tx.execute(select(key, column))).all()
        for number, moment in found:
            changed = moment_of(number, moment)
            if changed != moment:
                to_be = update(column.class_).where(key == number).values({column: changed})
                await tx.execute(to_be)


async def post_counts(db: Database) -> dict[int, int]:
    """How many posts are kept to be each user's, once it is sure that they wrote as many."""
    kept = await run(db, "SELECT user_id, post_count FROM user_post_counts")
    counts = {row.user_id: row.post_count for row in kept}
    counted = await run(
        db,
        "SELECT users.id, count(posts.id) AS posts FROM users"
        " LEFT JOIN posts ON author_id = users.id GROUP BY users.id",
    )
    assert counts == {row.id: row.posts for row in counted}
    return dict(sorted(counts.items()))


@contextmanager
def noting(
    note: Callable[[Connection, str, tuple[Any, ...]], Awaitable[None]],
    note_failure: Callable[[Connection, str], None] = lambda *_: None,
) -> Iterator[None]:
    """Has what PostgreSQL's driver itself is sent noted, before it is, and what fails of it."""
    originals = {name: getattr(Connection, name) for name in ("fetch", "execute")}

    def noted(name: str) -> Callable[..., Awaitable[Any]]:
        async def send(connection: Connection, query: str, *values: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's
            await note(connection, query, values)
            try:
                return await originals[name](connection, query, *values, **options)
            except PostgresError:
                note_failure(connection, query)
                raise

        return send

    for name in originals:
        setattr(Connection, name, noted(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Connection, name, original)


# What begins transactions where it is a statement of Byline's that does.
BEGINNINGS = ("BEGIN", "START TRANSACTION", "SET TRANSACTION", "PRAGMA query_only")
# And what ends them, on PostgreSQL.
FRAMES = (*BEGINNINGS, "COMMIT", "ROLLBACK")


class Statement(NamedTuple):
    """A statement as the server gets it, with its parameters beside it."""

    text: str
    values: tuple[Any, ...]


@dataclass
class Sent:
    """What was sent.

    Args:
        statements: in the order they were sent.
        frames: what opened and ended transactions: `BEGIN;`.
    """

    statements: list[Statement] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)


@asynccontextmanager
async def sent_by(db: Database) -> AsyncIterator[Sent]:
    """Collects what connections that are taken from the pool in the block send.

    The frames are PostgreSQL's alone.
    """
    sent = Sent()
    watched: set[Connection] = set()

    def note_statement(*arguments: Any) -> None:  # noqa: ANN401 - as SQLAlchemy calls it
        _, _, statement, values, _, _ = arguments
        if not statement.startswith(BEGINNINGS):
            sent.statements.append(Statement(statement, values))

    async def note(connection: Connection, query: str, values: tuple[Any, ...]) -> None:
        if connection not in watched:
            return
        if query.startswith(FRAMES):
            sent.frames.append(query)
        else:
            sent.statements.append(Statement(query, values))

    def watch(_: object, entry: ConnectionPoolEntry, __: PoolProxiedConnection) -> None:
        connection: Any = entry.driver_connection
        watched.add(connection)

    engine = db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note_statement)
    event.listen(engine.pool, "checkout", watch)
    try:
        with noting(note):
            yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note_statement)
        event.remove(engine.pool, "checkout", watch)
