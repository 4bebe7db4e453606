"""Believable data, the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from storage import authors, seeding, users
from storage.casefold import fold
from storage.database import Database
from storage.errors import AlreadyExists
from storage.keyset import Order, Window
from storage.seeding import Plan
from tests import factories
from tests.statements import post_counts, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


PLAN = Plan(users=300, posts=2000, tags=40, seed=7)
# Everything but what only the database decides: where ids start, and when a tag was made.
TABLES = {
    "users": "id",
    "profiles": "user_id",
    "posts": "id",
    "tags": "id",
    "post_tags": "post_id, tag_id",
    "user_post_counts": "user_id",
}
FIRST_IDS = (
    "SELECT (SELECT min(id) FROM users), (SELECT min(id) FROM posts), (SELECT min(id) FROM tags)"
)
DECIDED_BY_THE_DATABASE = {("tags", "updated_at"), ("profiles", "updated_at")}


@pytest.fixture
async def other_db(database_url: str) -> AsyncIterator[Database]:
    """Another migrated database with nothing in it."""
    database = Database(database_url)
    # Its ids start elsewhere.
    for _ in range(7):
        post = await factories.add_post(database)
        async with database.transaction() as tx:
            await users.delete(tx, post.author_id)
    yield database
    await database.close()


async def seed(db: Database, plan: Plan) -> dict[str, int]:
    """Seeds a database, and returns how much it was told to have been made of what."""
    told = dict.fromkeys(("users", "tags", "posts"), 0)

    def progress(name: str, made: int) -> None:
        told[name] += made

    await seeding.seed(db, plan, "$argon2id$x", progress)
    return told


async def dump(db: Database) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, ids counted from the first."""
    first = dict(zip(("users", "posts", "tags"), (await run(db, FIRST_IDS)).one(), strict=True))
    refers = {
        "user_id": "users",
        "author_id": "users",
        "post_id": "posts",
        "tag_id": "tags",
    }
    dumped = {}
    for table, key in TABLES.items():
        rows = await run(db, f"SELECT * FROM {table} ORDER BY {key}")
        dumped[table] = [
            {
                name: value - first[refers.get(name, table)] if name.endswith("id") else value
                for name, value in row.items()
                if (table, name) not in DECIDED_BY_THE_DATABASE
            }
            for row in rows.mappings()
        ]
    return dumped


async def test_the_same_seed_gives_the_same_data_whatever_it_is_added_by(
    db: Database, other_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(db, PLAN)
    monkeypatch.setattr(seeding, "BATCH", 17)
    await seed(other_db, PLAN)
    ours, theirs = await dump(db), await dump(other_db)
    for table in TABLES:
        assert ours[table] == theirs[table]
        assert ours[table]


async def test_no_id_of_who_is_gone_is_given_again(db: Database) -> None:
    post = await factories.add_post(db)
    async with db.transaction() as tx:
        await users.delete(tx, post.author_id)
    await seed(db, PLAN)
    first_user, first_post, _ = tuple((await run(db, FIRST_IDS)).one())
    assert first_user > post.author_id
    assert first_post > post.id


async def test_another_seed_gives_other_data(db: Database, other_db: Database) -> None:
    await seed(db, PLAN)
    await seed(other_db, PLAN._replace(seed=8))
    ours, theirs = await dump(db), await dump(other_db)
    for table in TABLES:
        assert ours[table] != theirs[table]


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        PLAN._replace(users=0),
        PLAN._replace(posts=0),
        PLAN._replace(tags=0),
        Plan(users=0, posts=0, tags=0, seed=0),
        Plan(users=1, posts=1, tags=1, seed=2**63 - 1),
    ],
    ids=str,
)
async def test_as_much_is_made_and_told_as_is_asked_for(db: Database, plan: Plan) -> None:
    told = await seed(db, plan)
    made = {table: len(rows) for table, rows in (await dump(db)).items()}
    # Without users, there is nobody to write.
    expected = {"users": plan.users, "tags": plan.tags, "posts": plan.posts if plan.users else 0}
    assert told == expected
    assert {name: made[name] for name in expected} == expected
    assert (made["post_tags"] > 0) == all((plan.users, plan.posts, plan.tags))
    assert sum((await post_counts(db)).values()) == expected["posts"]


async def test_a_second_run_of_a_seed_is_refused_and_changes_nothing(db: Database) -> None:
    await seed(db, PLAN)
    before = await dump(db)
    for plan in (PLAN, PLAN._replace(users=1), PLAN._replace(users=500, posts=0, tags=90)):
        with pytest.raises(AlreadyExists):
            await seed(db, plan)
    assert await dump(db) == before


async def test_another_seed_adds_to_what_is_there(db: Database) -> None:
    await seed(db, PLAN)
    before = await dump(db)
    await seed(db, Plan(users=10, posts=100, tags=1000, seed=8))
    after = await dump(db)
    for table in ("users", "posts", "post_tags"):
        assert after[table][: len(before[table])] == before[table]
    assert len(after["posts"]) == len(before["posts"]) + 100
    # Some of its tags are there already.
    assert 1000 <= len(after["tags"]) < 1000 + PLAN.tags
    await post_counts(db)


async def test_few_authors_write_most_and_few_tags_are_on_most(db: Database) -> None:
    await seed(db, Plan(users=500, posts=5000, tags=50, seed=1))
    async with db.read() as read:
        window = Window(Order("post_count", descending=True), None, 500)
        page = await authors.list_post_counts(read, window)
    counts = [row.post_count for row in page.rows]
    assert sum(counts) == 5000
    assert sum(counts[:50]) > 0.6 * 5000
    assert counts[0] > 0.05 * 5000
    assert counts[-1] == 0
    used = await run(db, "SELECT count(*) FROM post_tags GROUP BY tag_id ORDER BY 1 DESC")
    links = used.scalars().all()
    assert len(links) == 50
    assert sum(links[:5]) > 0.3 * sum(links)
    assert links[0] > 10 * links[-1]


async def test_the_data_keeps_the_rules_that_byline_keeps(db: Database) -> None:
    await seed(db, PLAN)
    data = await dump(db)
    for user in data["users"]:
        assert user["email_key"] == fold(user["email"])
        assert user["username_key"] == fold(user["username"])
        assert user["email"].isascii()
    for post in data["posts"]:
        assert post["title_key"] == fold(post["title"])
        assert post["published_at"] == (post["created_at"] if post["published"] else None)
        assert post["created_at"] >= data["users"][post["author_id"]]["created_at"]
    assert {user["role"] for user in data["users"]} == {"user", "admin", "moderator"}
    assert {user["is_active"] for user in data["users"]} == {True, False}
    assert {post["published"] for post in data["posts"]} == {True, False}
    assert 0 < len(data["profiles"]) < len(data["users"])
