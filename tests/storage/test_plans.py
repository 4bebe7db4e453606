"""How PostgreSQL runs the SQL of users on a large table: by an index, reading little of it.

What is explained are the statements that storage sends, with their values. PostgreSQL plans a
prepared statement either for the values at hand or once for any values, as it sees fit: a plan of
either kind has to do.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import make_url, text

import migrations
from storage import profiles, users
from storage.database import Database, PoolConfig
from storage.keyset import Cursor, Order, Window
from storage.models import Role
from storage.users import Filter, Key
from tests.sessions import connected
from tests.statements import sent_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import asyncpg

    from storage.database import Session, Transaction
    from tests.statements import Statement

    Call = Callable[[Session], Awaitable[object]]
    Change = Callable[[Transaction], Awaitable[object]]

ROWS = 100_000
# A page of the commonest of the rare, in an order that says nothing about them, has to skip many.
MOST_READ = ROWS // 10
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
# A user every five minutes: 347 days of them. Of 50 one is inactive, of 100 a moderator, of 1,000
# an admin; every other one has a profile.
FILL = """
    INSERT INTO users (
        email, email_key, username, username_key, password_hash, full_name, role, is_active,
        created_at, updated_at
    )
    SELECT
        email, email, name, name, '$argon2id$v=19$m=19456,t=2,p=1$' || repeat(md5(name), 2), name,
        CASE WHEN n % 1000 = 7 THEN 'admin' WHEN n % 100 = 3 THEN 'moderator' ELSE 'user' END,
        n % 50 <> 11, moment, moment
    FROM (
        SELECT
            n, name, moment,
            name || '@' || (ARRAY['example.com', 'example.org', 'mail.example.net'])[1 + n % 3]
                AS email
        FROM (
            SELECT
                n,
                (ARRAY['ada', 'bob', 'cleo', 'dan', 'eve', 'finn', 'gus'])[1 + n % 7]
                    || '.' || left(md5(n::text), 6) || n AS name,
                timestamptz '2024-01-01' + n * interval '5 minutes' AS moment
            FROM generate_series(1, {rows}) AS n
        ) AS named
    ) AS addressed;
    -- References are checked by a plan that is made now.
    ANALYZE users;
    INSERT INTO profiles (user_id, bio, avatar_url)
    SELECT id, repeat(username || ' writes. ', 10), 'https://example.com/' || username
    FROM users WHERE id % 2 = 0;
    ALTER TABLE users SET (autovacuum_enabled = false);
    ALTER TABLE profiles SET (autovacuum_enabled = false);
"""

ORDERS = [
    Order(name, descending=descending)
    for name in ("id", "created_at", "username")
    for descending in (False, True)
]
MIDDLE = {
    "id": Cursor(ROWS // 2, ROWS // 2),
    "created_at": Cursor(FIRST_DAY + timedelta(days=170), ROWS // 2),
    "username": Cursor("dan.5", ROWS // 2),
}


def day(number: float) -> datetime:
    return FIRST_DAY + timedelta(days=number)


# Any plan has to do for these: no value in them decides which index is best.
STATES = {
    "everybody": Filter(),
    "active": Filter(is_active=True),
    "inactive": Filter(is_active=False),
    "ordinary": Filter(role=Role.USER),
    "moderators": Filter(role=Role.MODERATOR),
    "admins": Filter(role=Role.ADMIN),
    "active moderators": Filter(is_active=True, role=Role.MODERATOR),
    "inactive moderators": Filter(is_active=False, role=Role.MODERATOR),
    "inactive admins": Filter(is_active=False, role=Role.ADMIN),
}
# Not among them: what goes with the order, as a long span does with that of ids. PostgreSQL takes
# them to be unrelated, and walks the order until it finds enough.
VALUES = {
    "nobody found": Filter(query="zzzqqq"),
    "one found": Filter(query="ada.c4ca42"),
    "some found": Filter(query="4ca"),
    "many found": Filter(query="@mail"),
    "all found": Filter(query="EXAMPLE"),
    "inactive found": Filter(query="4ca", is_active=False),
    "moderators found": Filter(query="example", role=Role.MODERATOR),
    "found in a span": Filter(query="4ca", created_after=day(300)),
    "last hours": Filter(created_after=day(347)),
    "all but the first day": Filter(created_after=day(1)),
    "first hours": Filter(created_before=day(0.25)),
    "all but the last day": Filter(created_before=day(346)),
    "hours between": Filter(created_after=day(100), created_before=day(100.25)),
    "inactive of the last hours": Filter(is_active=False, created_after=day(347)),
    "admins of the last hours": Filter(role=Role.ADMIN, created_after=day(347)),
    "everything at once": Filter(
        query="4ca",
        is_active=False,
        role=Role.MODERATOR,
        created_after=day(10),
        created_before=day(340),
    ),
}


@pytest.fixture(scope="module")
async def populated_url(cluster: str) -> str:
    """The URL of the large table, which the first who asks makes for all parallel workers."""
    url = make_url(cluster)
    async with connected(cluster) as admin:
        await admin.execute("SELECT pg_advisory_lock(hashtext('populated'))")
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = 'populated'"):
            await admin.execute("CREATE DATABASE populating")
            making = url.set(database="populating").render_as_string(hide_password=False)
            await asyncio.to_thread(migrations.up, making)
            async with connected(making) as filler:
                await _fill(filler)
            await admin.execute("ALTER DATABASE populating RENAME TO populated")
    return url.set(database="populated").render_as_string(hide_password=False)


async def _fill(filler: asyncpg.Connection) -> None:
    # The search index is made much quicker in one go than row by row.
    index = await filler.fetchval("SELECT pg_get_indexdef('ix_users_search'::regclass)")
    await filler.execute("DROP INDEX ix_users_search")
    await filler.execute(FILL.format(rows=ROWS))
    await filler.execute(index)
    # At this target all rows are in the sample, so that the plans are the same in every run.
    await filler.execute("SET default_statistics_target = 400")
    await filler.execute("VACUUM ANALYZE users, profiles")


@pytest.fixture(scope="module")
async def populated(populated_url: str) -> AsyncIterator[Database]:
    """The large table."""
    database = Database(populated_url, PoolConfig(size=1, overflow=0))
    yield database
    await database.close()


@pytest.fixture
async def fresh(populated_url: str) -> AsyncIterator[Database]:
    """The large table, by a connection that has prepared nothing yet."""
    database = Database(populated_url, PoolConfig(size=1, overflow=0))
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def planner(populated_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that explains."""
    async with connected(populated_url) as connection:
        await connection.execute("SET jit = off; SET timezone = 'UTC'")
        yield connection


class Plan(NamedTuple):
    """How a statement was run.

    Args:
        steps: from the top to the leaves.
        read: rows that were read off tables and indexes, those that were dropped among them.
    """

    steps: tuple[str, ...]
    read: int

    @property
    def indexes(self) -> set[str]:
        """The indexes that were used."""
        return {step.partition(" ")[2] for step in self.steps if " " in step}


async def plan_of(
    planner: asyncpg.Connection, statement: Statement, *, generic: bool, run: bool = True
) -> Plan:
    """Explains a prepared statement, planned for its values or for any."""
    mode = "force_generic_plan" if generic else "force_custom_plan"
    await planner.execute(f"SET plan_cache_mode = {mode}")
    await planner.execute(f"PREPARE explained AS {statement.text}")
    try:
        values = f"({', '.join(map(_quoted, statement.values))})" if statement.values else ""
        options = "ANALYZE, TIMING off, FORMAT json" if run else "FORMAT json"
        explained = await planner.fetchval(f"EXPLAIN ({options}) EXECUTE explained{values}")
    finally:
        await planner.execute("DEALLOCATE explained")
    nodes = list(_walk(json.loads(explained)[0]["Plan"]))
    steps = tuple(map(_step, nodes))
    return Plan(steps, round(sum(map(_read, nodes))) if run else 0)


def _step(node: dict[str, Any]) -> str:
    kind: str = node["Node Type"].replace(" ", "")
    return f"{kind} {node['Index Name']}" if "Index Name" in node else kind


def _quoted(value: object) -> str:
    plain = "{{{}}}".format(",".join(map(str, value))) if isinstance(value, list) else str(value)
    return "'" + plain.replace("'", "''") + "'"


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from _walk(part)


def _read(node: dict[str, Any]) -> float:
    kind: str = node["Node Type"]
    if not kind.endswith("Scan") or kind == "Subquery Scan":
        return 0
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + dropped) * node["Actual Loops"])


async def statement_of(db: Database, call: Call) -> Statement:
    """The one statement that a call sends."""
    async with sent_by(db) as sent, db.read() as read:
        await call(read)
    (statement,) = sent.statements
    return statement


def assert_reads_little(plan: Plan, about: object) -> None:
    assert not any("SeqScan" in step for step in plan.steps), (about, plan)
    assert plan.indexes, (about, plan)
    assert plan.read <= MOST_READ, (about, plan)


def windows() -> Iterator[Window]:
    """The first page and one from the middle of the table, in every order."""
    for order in ORDERS:
        yield Window(order, None, 50)
        yield Window(order, MIDDLE[order.field], 50)


# lists


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        *((name, False) for name in (*STATES, *VALUES)),
        *((name, True) for name in ("everybody", "inactive", "moderators")),
        *((name, True) for name in ("some found", "last hours", "hours between")),
    ],
)
async def test_a_page_reads_little_in_every_order_and_wherever_it_is(
    populated: Database, planner: asyncpg.Connection, name: str, *, profile: bool
) -> None:
    where = {**STATES, **VALUES}[name]
    kinds = (False, True) if name in STATES else (False,)
    for window in windows():
        statement = await statement_of(
            populated,
            lambda read: users.list_page(read, where, window, profile=profile),  # noqa: B023 - at once
        )
        for generic in kinds:
            plan = await plan_of(planner, statement, generic=generic)
            assert_reads_little(plan, (window, generic))


@pytest.mark.parametrize(
    "name",
    [
        "nobody found",
        "some found",
        "many found",
        "last hours",
        "hours between",
        "everything at once",
    ],
)
async def test_a_search_or_span_is_planned_for_its_values_however_often_it_is_sent(
    fresh: Database, name: str
) -> None:
    pages = [window for window in windows() if not window.order.descending]
    # PostgreSQL makes up its mind after five.
    times = 7
    async with fresh.read() as read:
        for window in pages:
            for _ in range(times):
                await users.list_page(read, VALUES[name], window)
        kept = await read.execute(
            text(
                "SELECT count(*), sum(generic_plans), sum(custom_plans)"
                " FROM pg_prepared_statements WHERE generic_plans + custom_plans = :times"
            ),
            {"times": times},
        )
    assert kept.one() == (len(pages), 0, len(pages) * times)


@pytest.mark.parametrize(
    ("where", "order", "index"),
    [
        (Filter(), "id", "pk_users"),
        (Filter(), "created_at", "ix_users_created_at_id"),
        (Filter(), "username", "uq_users_username_key"),
        (STATES["inactive"], "id", "ix_users_inactive"),
        (STATES["moderators"], "id", "ix_users_staff"),
        (STATES["admins"], "username", "ix_users_staff"),
        (VALUES["last hours"], "id", "ix_users_created_at_id"),
        (VALUES["first hours"], "username", "ix_users_created_at_id"),
        *((VALUES[name], "id", "ix_users_search") for name in ("one found", "nobody found")),
        *((VALUES["some found"], order, "ix_users_search") for order in MIDDLE),
        (Filter(query="999@example.org"), "created_at", "ix_users_search"),
    ],
)
async def test_a_filter_or_order_is_answered_by_its_index(
    populated: Database, planner: asyncpg.Connection, where: Filter, order: str, index: str
) -> None:
    for descending in (False, True):
        window = Window(Order(order, descending=descending), None, 50)
        statement = await statement_of(
            populated,
            lambda read: users.list_page(read, where, window),  # noqa: B023 - at once
        )
        assert (await plan_of(planner, statement, generic=False)).indexes == {index}


@pytest.mark.parametrize(
    "name",
    [
        *("inactive", "moderators", "admins", "inactive moderators", "nobody found", "one found"),
        *("some found", "last hours", "first hours", "hours between", "everything at once"),
    ],
)
async def test_a_count_of_few_reads_little(
    populated: Database, planner: asyncpg.Connection, name: str
) -> None:
    where = {**STATES, **VALUES}[name]
    statement = await statement_of(populated, lambda read: users.count(read, where))
    assert_reads_little(await plan_of(planner, statement, generic=False), name)


# single users


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("profile", [False, True], ids=["basic", "profile"])
async def test_single_users_are_read_by_the_index_of_their_key(
    populated: Database, planner: asyncpg.Connection, *, profile: bool, generic: bool
) -> None:
    async with populated.read() as read:
        user = await users.get(read, Key("id", ROWS // 2))
    ids = list(range(1, ROWS, ROWS // 50))
    calls: dict[str, tuple[Call, str]] = {
        "id": (lambda r: users.get(r, Key("id", user.id), profile=profile), "pk_users"),
        "email": (
            lambda r: users.get(r, Key("email", user.email), profile=profile),
            "uq_users_email_key",
        ),
        "username": (
            lambda r: users.get(r, Key("username", user.username), profile=profile),
            "uq_users_username_key",
        ),
        "login": (
            lambda r: users.get_credentials(r, Key("email", user.email)),
            "uq_users_email_key",
        ),
        "batch": (lambda r: users.batch_get(r, ids, profile=profile), "pk_users"),
        "profile": (lambda r: profiles.get(r, user.id), "pk_profiles"),
    }
    for name, (call, index) in calls.items():
        statement = await statement_of(populated, call)
        plan = await plan_of(planner, statement, generic=generic)
        assert_reads_little(plan, name)
        assert index in plan.indexes
        assert plan.read <= 2 * (len(ids) if name == "batch" else 1), (name, plan)


# changes


CHANGES: dict[str, tuple[Change, str]] = {
    "update": (lambda tx: users.update(tx, 5, {"username": "x"}), "pk_users"),
    "delete": (lambda tx: users.delete(tx, 5), "pk_users"),
    "rehash": (lambda tx: users.rehash_password(tx, 5, "", ""), "pk_users"),
    "update profile": (lambda tx: profiles.update(tx, 6, {"bio": ""}), "pk_profiles"),
    "make profile": (lambda tx: profiles.update_or_create(tx, 5, {"bio": ""}), "pk_users"),
    "delete profile": (lambda tx: profiles.delete(tx, 6), "pk_profiles"),
}


class _Undone(Exception):
    """Rolls a change back."""


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("name", CHANGES)
async def test_changes_find_their_rows_by_an_index(
    populated: Database, planner: asyncpg.Connection, name: str, *, generic: bool
) -> None:
    change, index = CHANGES[name]
    plan = await plan_of(planner, await _sent(populated, change), generic=generic, run=False)
    assert index in plan.indexes
    assert not any("SeqScan" in step for step in plan.steps), plan


@pytest.mark.parametrize(
    ("change", "index"),
    [
        (
            lambda tx: users.deactivate(tx, Filter(is_active=True, created_before=day(1))),
            "ix_users_created_at_id",
        ),
        (lambda tx: users.purge(tx, Filter(is_active=False)), "ix_users_inactive"),
    ],
    ids=["deactivate", "purge"],
)
async def test_changes_of_many_find_by_an_index_whom_they_concern(
    populated: Database, planner: asyncpg.Connection, change: Change, index: str
) -> None:
    statement = await _sent(populated, change)
    assert index in (await plan_of(planner, statement, generic=False, run=False)).indexes


async def _sent(db: Database, change: Change) -> Statement:
    """The first statement that a change sends. Its effect is undone."""

    async def undone() -> None:
        async with db.transaction() as tx:
            await change(tx)
            raise _Undone

    async with sent_by(db) as sent:
        with pytest.raises(_Undone):
            await undone()
    return sent.statements[0]
