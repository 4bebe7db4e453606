"""Which trigrams of a text the search index is asked for, by what is known of all texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import users
from storage.database import Database
from storage.dialects import trigrams
from storage.dialects.trigrams import Known, known, pieces
from storage.keyset import Order, Window
from storage.models import Post, User
from tests import factories
from tests.plans import plan_of, statement_of
from tests.sessions import connected
from tests.statements import run, sent_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COLUMNS = (User.username_key, User.email_key)
MANY = 200
SIGNS = "ab1 .@"
KNOWN = Known(
    of_many=frozenset(["ada", "lov", "ove", "vel", "ela", "lac", "ace"]),
    of_most=frozenset(["  1", " 1 ", " 11", "exa", "xam", "amp", "mpl", "ple", "com"]),
)
# A machine that stalls is no finding.
at_any_speed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        # Few have any of it: all of each word.
        ("turing", ["turing"]),
        ("alonzo.church", ["alonzo", "church"]),
        # Many have it: as much as does not overlap.
        ("lovelace", ["lov", "ela"]),
        ("lovelaces", ["lov", "ela", "ces"]),
        ("ada", ["ada"]),
        # Few have the end of it.
        ("lovex", ["lovex"]),
        # Most have it.
        ("example", []),
        ("turing@example.com", ["turing"]),
        ("samples", ["sam", "les"]),
        ("exams", ["ams"]),
        # Of words of two characters, one end; of one character, nothing.
        ("lovelace.1.77", ["lov", "ela", ".77"]),
        ("77@turing", ["77@", "turing"]),
        ("lovelace.11", ["lov", "ela"]),
        (".1.314159", ["314159"]),
        ("77", []),
        ("1.1", []),
        ("...", []),
        # Signs of LIKE are of no word.
        ("50%_off", ["50%", "off"]),
    ],
)
def test_the_index_is_asked_for_what_few_have_and_for_little_else(
    part: str, asked: list[str]
) -> None:
    assert pieces(part, KNOWN) == asked


@at_any_speed
@given(st.text(SIGNS, max_size=20), st.frozensets(st.text(SIGNS, min_size=3, max_size=3)))
def test_what_contains_a_text_has_its_pieces_one_after_the_other(
    part: str, some: frozenset[str]
) -> None:
    for told in (Known(), Known(of_many=some), Known(of_most=some)):
        found = pieces(part, told)
        assert re.search(".*".join(map(re.escape, found)), part) is not None
        assert not any(each in piece for piece in found for each in told.of_most if each.isalnum())


@at_any_speed
@given(st.text(SIGNS, max_size=20), st.frozensets(st.text("ab1", min_size=3, max_size=3)))
def test_all_that_few_have_is_asked_for(part: str, many: frozenset[str]) -> None:
    found = pieces(part, Known(of_many=many))
    for word in re.findall("[ab1]+", part):
        for rare in {word[at : at + 3] for at in range(len(word) - 2)} - many:
            assert any(rare in piece for piece in found)


async def test_texts_have_the_trigrams_that_the_index_keeps(db: Database) -> None:
    texts = ["ada.lovelace.1.77@example.com", "a b  cd_efg", "x", "", "50% off", "3.14159"]
    for text in texts:
        kept = (await run(db, "SELECT show_trgm(:text)", text=text)).scalar_one()
        assert set(trigrams.all_of(text)) == set(kept)


def test_what_half_a_percent_of_the_rows_have_is_not_rare() -> None:
    known = Known(texts=[*["ada.lovelace"] * 5, *["ada.turing"] * 4, *["grace"] * 991])
    for of_some in (["ada"], ["lov", "lace"], ["ada", "lace"]):
        assert not known.are_rare(of_some)
    for of_few in (["turing"], ["lov", "turing"], ["hopper"]):
        assert known.are_rare(of_few)
    # Nothing is known.
    assert not Known().are_rare(["hopper"])


async def test_what_is_rare_is_found_by_the_index_though_the_statistics_have_it(
    db: Database,
) -> None:
    await factories.add_many_users(db, 20_000)
    await run(db, "ANALYZE users")
    bounds = "SELECT histogram_bounds::text::text[] FROM pg_stats WHERE tablename LIKE :index"
    texts = (await run(db, bounds, index="ix_users_search")).scalar_one()
    # One of the hundred texts by which PostgreSQL takes it to be in one row of a hundred.
    username, _, _ = texts[len(texts) // 2].partition(" ")
    window = Window(Order("created_at", descending=True), None, 10)
    where = users.Filter(query=username)
    statement = await statement_of(db, lambda read: users.list_page(read, where, window))
    async with connected(db.engine.url.render_as_string(hide_password=False)) as planner:
        assert (await plan_of(planner, statement, generic=False)).indexes == {"ix_users_search"}


async def test_what_many_and_what_most_have_is_known_of_a_table_that_was_looked_at(
    db: Database,
) -> None:
    await factories.add_many_users(db, MANY)
    await run(db, "UPDATE users SET email_key = id || '@rare.org' WHERE id % 20 = 0")
    await run(db, "ANALYZE users")
    async with db.read() as read:
        of = await known(read, COLUMNS)
    (username,) = (await run(db, "SELECT username_key FROM users LIMIT 1")).one()
    assert of.of_most > {username[:3]}
    assert {"rar", "are"} <= of.of_many - of.of_most


async def test_nothing_is_known_of_a_table_that_is_small_or_was_not_looked_at(
    db: Database,
) -> None:
    async with db.read() as read:
        assert (await known(read, COLUMNS))._replace(until=0) == Known()
    await factories.add_users(db, 10)
    await run(db, "ANALYZE users")
    again = Database(db.engine.url.render_as_string(hide_password=False))
    async with again.read() as read:
        assert (await known(read, COLUMNS))._replace(until=0) == Known()
    await again.close()


async def test_it_is_asked_for_once_a_minute_for_each_table(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sent_by(db) as sent, db.read() as read:
        for _ in range(3):
            await known(read, COLUMNS)
        assert len(sent.statements) == 1
        await known(read, (Post.title_key,))
        assert len(sent.statements) == 2
    monkeypatch.setattr(trigrams, "monotonic", lambda: float("inf"))
    async with sent_by(db) as sent, db.read() as read:
        await known(read, COLUMNS)
        assert len(sent.statements) == 1


async def test_a_search_asks_for_the_pieces_and_finds_what_contains_the_whole(
    db: Database,
) -> None:
    await factories.add_many_users(db, MANY)
    names = ["x.turing.31", "x.turing.32", "turing.x.31"]
    for name in names:
        await factories.add_user(db, username=name, email=f"{name}@nowhere")
    await run(db, "UPDATE users SET email_key = email_key || '.common'")
    await run(db, "ANALYZE users")
    async with sent_by(db) as sent, db.read() as read:
        where = users.Filter(query="turing.31@nowhere.common")
        found = await users.list_page(read, where, Window(Order("id"), None, 10))
        assert await users.count(read, where) == 1
    assert [row.username for row in found.rows] == ["x.turing.31"]
    _, listed, counted = sent.statements
    assert "%turing%.31%nowhere%" in {*listed.values} & {*counted.values}
