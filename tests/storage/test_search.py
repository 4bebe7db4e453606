"""What a search finds: on every database what contains the text, folded, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import keyset, posts, users
from storage.casefold import fold
from storage.dialects import search, trigrams
from storage.dialects.trigrams import Known, all_of
from storage.keyset import Order, Window
from tests import factories
from tests.paging import in_order, listed, orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.database import Database
    from storage.sessions import Session

TITLES = [
    "Straße",
    "STRASSENBAHN",
    "50% off_",
    "c\\d e/f",
    'it\'s "so" quoted',
    "a AND b OR NOT c",
    "NEAR(a b, 2) ^x* -y +z {title_key}: w",
    "ab",
    "  spaces  ",
    "Café",
    "CAFE\u0301 noir",
    "cafe",
    "İstanbul",
    "ISPARTA I\u0131",
    "🦉owl🦉🦉",
    "e\u0323\u0302 \u1ec7",
    "日本語の検索",
    "日本",
    "\ufffe\uffff\ufffd",
    "a\u200db",
    "aaaa",
]
QUERIES = [
    # At the start, in the middle, at the end, and the whole.
    *("5", "50", "50%", "0% o", "off_", "f_", "_", "50% off_"),
    # Signs of LIKE, of its escapes, and of quotes.
    *(
        "%",
        "%%",
        "___",
        "a%b",
        "\\",
        "c\\d",
        "\\\\",
        "/",
        "e/f",
        "//",
        "'",
        "'s",
        '"',
        '""',
        '"so"',
    ),
    # What a query of FTS5 has words and signs for.
    *("AND", "a AND b", "OR NOT", "NEAR(a", "(a b, 2)", "^x*", "* -y", "-y +z", "{title_key}:"),
    *("title_key:", 'so" OR "cafe', "a b", "   ", "***", '"""'),
    # Spaces, which count.
    *(" ", "  ", "  spaces  ", "spaces ", "spaces   ", " spaces"),
    # Case, accents however they are composed, and letters that fold to more than one.
    *(
        "ss",
        "ß",
        "ẞ",
        "SSE",
        "aßen",
        "é",
        "e\u0301",
        "CAFÉ",
        "cafe\u0301",
        "cafe",
        "\u0301",
        "\u1ec7",
    ),
    *("i", "I", "\u0131", "İ", "i\u0307", "İst", "ISP", "I\u0131"),
    # Beyond one byte, beyond two, and beyond the Basic Multilingual Plane.
    *("🦉", "🦉🦉", "🦉owl", "l🦉🦉", "🦉🦉🦉", "日", "日本", "日本語", "語の検索", "検索"),
    *("\ufffe", "\ufffe\uffff", "\ufffe\uffff\ufffd", "\uffff\uffff\ufffd", "\u200d", "a\u200db"),
    # What spans nothing, or more than there is.
    *("abc", "aaaaa", "aaa", "xyz", "ofs", "x" * 200),
]


ORDERS = orders("id", "created_at", "title")
VALUES = {
    "id": lambda row: row.id,
    "created_at": lambda row: row.created_at,
    "title": lambda row: fold(row.title),
}


class _Undone(Exception):
    """Rolls back what came before."""


async def found(session: Session, query: str) -> list[str]:
    """The titles of the posts that a search finds, in the order of their ids."""
    where = posts.Filter(query=query)
    page = await posts.list_page(session, where, Window(Order("id"), None, 1000))
    assert await posts.count(session, where) == len(page.rows)
    return [row.title for row in page.rows]


async def found_users(session: Session, query: str) -> list[str]:
    """The usernames of the users that a search finds, in the order of their ids."""
    where = users.Filter(query=query)
    page = await users.list_page(session, where, Window(Order("id"), None, 1000))
    assert await users.count(session, where) == len(page.rows)
    return [row.username for row in page.rows]


def containing(query: str, texts: Sequence[str]) -> list[str]:
    """Those of the texts that a search is to find."""
    return [text for text in texts if fold(query) in fold(text)]


async def test_a_search_takes_every_character_for_itself(db: Database) -> None:
    async with db.transaction() as tx:
        author = await users.create(tx, factories.new_user(username="none", email="none"))
        for title in TITLES:
            await posts.create(tx, posts.NewPost(author.id, title))
            # Nobody's email contains what a query asks for.
            await users.create(tx, factories.new_user(username=title, email=f"\N{SNOWMAN}{title}"))
    async with db.read() as read:
        of_posts = {query: await found(read, query) for query in QUERIES}
        of_users = {query: await found_users(read, query) for query in QUERIES}
    expected = {query: containing(query, TITLES) for query in QUERIES}
    assert of_posts == expected
    assert of_users == expected


@pytest.mark.parametrize("query", ["\N{SNOWMAN}", "ada", "ada@maths", "MATHS.ORG", "a", "@"])
async def test_users_are_found_by_username_and_by_email(db: Database, query: str) -> None:
    known = {"ada": "\N{SNOWMAN}@maths.org", "bob": "ada@maths.org", "ada\N{SNOWMAN}": "cleo@x"}
    for username, email in known.items():
        await factories.add_user(db, username=username, email=email)
    async with db.read() as read:
        assert await found_users(read, query) == [
            username for username, email in known.items() if containing(query, [username, email])
        ]


async def test_nothing_is_found_across_two_texts(db: Database) -> None:
    await factories.add_user(db, username="one", email="two@x")
    await factories.add_user(db, username="ada", email="ada@x")
    async with db.read() as read:
        for query in ("onetwo", "one two", "etw", "e t", "ada ada", "a a"):
            assert await found_users(read, query) == []


@pytest.mark.parametrize("field", ["username", "email"])
async def test_a_user_who_changed_is_found_by_what_they_are(db: Database, field: str) -> None:
    user = await factories.add_user(db, username="u", email="e")
    for name in ("before", "after", "AFTER", "afterwards"):
        async with db.transaction() as tx:
            await users.update(tx, user.id, {field: name, "full_name": name})
    async with db.read() as read:
        assert len(await found_users(read, "afterw")) == 1
        assert await found_users(read, "before") == []
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "before"})
        await users.delete(tx, user.id)
    await factories.add_user(db, username="another", email="another")
    async with db.read() as read:
        assert await found_users(read, "after") == []
        assert await found_users(read, "another") == ["another"]


async def test_a_post_that_changed_is_found_by_what_it_is(db: Database) -> None:
    kept, gone = [await factories.add_post(db, title=title) for title in ("Before", "Begone")]
    async with db.transaction() as tx:
        await posts.update(tx, kept.id, {"title": "After"})
        assert await found(tx, "after") == ["After"]
        # By the database's cascade.
        await users.delete(tx, gone.author_id)
    async with db.read() as read:
        assert await found(read, "after") == ["After"]
        assert await found(read, "before") == []
        assert await found(read, "begone") == []


async def test_only_the_title_of_a_post_is_searched(db: Database) -> None:
    await factories.add_post(db, title="Title", content="Once upon a time", tags=["tag"])
    async with db.read() as read:
        for query in ("once", "tag", "user"):
            assert await found(read, query) == []


async def test_what_was_rolled_back_is_not_found(db: Database) -> None:
    post = await factories.add_post(db, title="Before")
    with suppress(_Undone):
        async with db.transaction() as tx:
            await posts.update(tx, post.id, {"title": "After"})
            raise _Undone
    async with db.read() as read:
        assert await found(read, "before") == ["Before"]
        assert await found(read, "after") == []


@pytest.mark.parametrize("common", [0, 3, 1000])
@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_of_a_search_hold_every_row_once_and_in_order(
    db: Database, order: Order, common: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However common what is searched for is said to be."""
    monkeypatch.setattr(search, "_COMMON", common)
    monkeypatch.setattr(Known, "are_rare", lambda *_: common == 0)
    author = await factories.add_user(db)
    for title in ("The cat", "a cat", "Cat", "dog", "cat", "the Catalogue", "concatenate"):
        await factories.add_post(db, author_id=author.id, title=title)
    for query in ("cat", "the cat", "at"):
        where = posts.Filter(query=query)

        async def fetch(window: Window, where: posts.Filter = where) -> keyset.Page[posts.PostRow]:
            async with db.read() as read:
                return await posts.list_page(read, where, window)

        every = [row for row in await listed(fetch, Order("id")) if fold(query) in fold(row.title)]
        expected = in_order(every, order, VALUES)
        assert len(expected) in {2, 6}
        for limit in (1, 2, 6, 7):
            assert await listed(fetch, order, limit=limit) == expected


async def test_those_who_are_found_are_those_who_are_changed(db: Database) -> None:
    for name in ("ada", "adam", "bob"):
        await factories.add_user(db, username=name, email=f"{name}@x")
    async with db.transaction() as tx:
        assert await users.deactivate(tx, users.Filter(query="adam")) == 1
        assert await users.purge(tx, users.Filter(query="ADA")) == 2
    async with db.read() as read:
        assert await found_users(read, "@") == ["bob"]


# Few signs, so that texts have parts in common, and of every kind.
_SIGNS = "aAbß\u017fsi\u0131İ\u0307e\u0301é%_\\/\"'*-: 🦉本\u200d\ufffe\uffff\ufffd"
_texts = st.lists(st.text(_SIGNS, min_size=1, max_size=12), min_size=1, max_size=6, unique_by=fold)
_queries = st.text(_SIGNS, min_size=1, max_size=6)
# By which nothing is rare, and all is.
_known_texts = st.sampled_from([(), ("",)])


class _Searches(NamedTuple):
    texts: list[str]
    queries: list[str]
    known: Known


@st.composite
def _searches(draw: st.DrawFn) -> _Searches:
    """Texts, and queries: some are parts of the texts, most others are not.

    What is known of the texts decides how they are searched, and not what is found.
    """
    texts = draw(_texts)
    queries = draw(st.lists(_queries, max_size=3))
    for text in texts:
        start = draw(st.integers(0, len(text) - 1))
        queries.append(text[start : draw(st.integers(start + 1, len(text)))])
    seen = st.sampled_from([each for text in texts for each in all_of(fold(text))] or [""])
    known = Known(draw(st.frozensets(seen)), draw(st.frozensets(seen)), draw(_known_texts))
    return _Searches(texts, queries, known)


@given(_searches())
@settings(
    max_examples=100,
    deadline=None,
    # Each example is rolled back: the next finds the database as it was.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_a_search_finds_exactly_what_contains_it(
    db: Database, monkeypatch: pytest.MonkeyPatch, searches: _Searches
) -> None:
    texts, queries, known = searches

    async def told(*_: object) -> Known:
        return known

    monkeypatch.setattr(trigrams, "known", told)
    with suppress(_Undone):
        async with db.transaction() as tx:
            for number, each in enumerate(texts):
                user = await users.create(tx, users.NewUser(f"\N{SNOWMAN}{number}", each, "!"))
                await posts.create(tx, posts.NewPost(user.id, each))
            for query in queries:
                expected = containing(query, texts)
                assert await found(tx, query) == expected, query
                assert await found_users(tx, query) == expected, query
            raise _Undone
