"""How PostgreSQL runs the SQL of users on a large table: by an index, reading little of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage import profiles, users
from storage.dialects.direct import AGAIN
from storage.keyset import Cursor, Order, Window
from storage.models import Role
from storage.moments import Moment, moment_of
from storage.users import Filter, Key
from tests.plans import assert_planned_once, first_sent_by, plan_of, statement_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from storage.database import Database
    from tests.plans import Call, Change, Plan

ROWS = 100_000
# A page of the commonest of the rare, in an order that says nothing about them, has to skip many.
MOST_READ = ROWS // 5
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)


def day(number: float) -> Moment:
    return moment_of(FIRST_DAY + timedelta(days=number))


ORDERS = [
    Order(name, descending=descending)
    for name in ("id", "created_at", "username")
    for descending in (False, True)
]
MIDDLE = {
    "id": Cursor(ROWS // 2, ROWS // 2),
    "created_at": Cursor(day(170), ROWS // 2),
    "username": Cursor("dan.5", ROWS // 2),
}


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


@pytest.mark.parametrize("profile", [False, True])
async def test_users_by_id_are_planned_once_however_many_they_are(
    fresh: Database, *, profile: bool
) -> None:
    async with fresh.read() as read:
        await assert_planned_once(
            read, lambda ids: users.batch_get(read, ids, profile=profile), "%FROM users%"
        )


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
    # PostgreSQL makes up its mind after five. Before, SQLAlchemy may prepare one of its own.
    times = 7
    async with fresh.read() as read:
        for window in pages:
            for _ in range(AGAIN - 1 + times):
                await users.list_page(read, VALUES[name], window)
        kept = await read.execute(
            text(
                "SELECT count(*), sum(generic_plans)"
                " FROM pg_prepared_statements WHERE generic_plans + custom_plans >= :times"
            ),
            {"times": times},
        )
    assert kept.one() == (len(pages), 0)


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


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("name", CHANGES)
async def test_changes_find_their_rows_by_an_index(
    populated: Database, planner: asyncpg.Connection, name: str, *, generic: bool
) -> None:
    change, index = CHANGES[name]
    plan = await plan_of(
        planner, await first_sent_by(populated, change), generic=generic, run=False
    )
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
    statement = await first_sent_by(populated, change)
    assert index in (await plan_of(planner, statement, generic=False, run=False)).indexes
