"""Believable data: few authors write most, few tags are on most, some users are long gone."""

from __future__ import annotations

import itertools
import random
import unicodedata
from bisect import bisect_right
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from storage import tags
from storage.casefold import fold
from storage.dialects.rows import copy_in, reserve_ids
from storage.models import Post, PostTag, Profile, Role, User
from storage.moments import moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.database import Database, Transaction
    from storage.moments import Moment

    Progress = Callable[[str, int], None]

# Rows added by one statement.
BATCH = 5_000
FIRST_DAY = moment_of(datetime(2023, 1, 1, tzinfo=UTC))
LAST_DAY = moment_of(datetime(2026, 1, 1, tzinfo=UTC))
TAGS_OF_A_POST = (0, 1, 1, 2, 2, 3, 3, 4, 5)
PUBLISHED = 0.9
ACTIVE = 0.97
WITH_PROFILE = 0.6

FIRST_NAMES = (
    *("Ada", "Alan", "Barbara", "Bjarne", "Carol", "Claude", "Dennis", "Donald", "Edsger"),
    *("Frances", "Grace", "Guido", "Hedy", "Ingrid", "James", "Jean", "Joan", "John", "Karen"),
    *("Katherine", "Ken", "Leslie", "Linus", "Lynn", "Margaret", "Mary", "Niklaus", "Radia"),
    *("Robin", "Rózsa", "Shafi", "Sophie", "Stephanie", "Tim", "Tony", "Vint", "Wang", "Yukihiro"),
)
LAST_NAMES = (
    *("Allen", "Berners", "Cerf", "Clarke", "Conway", "Dijkstra", "Goldwasser", "Hamilton"),
    *("Hoare", "Hopper", "Johnson", "Keller", "Knuth", "Lamport", "Lamarr", "Liskov", "Lovelace"),
    *("Matsumoto", "McCarthy", "Milner", "Perlman", "Péter", "Ritchie", "Shannon", "Shirley"),
    *("Spärck", "Stroustrup", "Thompson", "Torvalds", "Turing", "Wilson", "Wirth", "Yao"),
)
SUBJECTS = (
    *("Backups", "Batteries", "Bread", "Caching", "Chess", "Clocks", "Compilers", "Consensus"),
    *("Databases", "Deadlines", "Fermentation", "Gardens", "Indexes", "Latency", "Locks", "Maps"),
    *("Migrations", "Mountains", "Networks", "Notebooks", "Photography", "Protocols", "Queues"),
    *("Rivers", "Schemas", "Testing", "Trains", "Transactions", "Typography", "Weather"),
)
QUALITIES = (
    *("applied", "async", "classic", "curious", "distributed", "early", "everyday", "field"),
    *("formal", "gentle", "hidden", "late", "local", "modern", "open", "plain", "practical"),
    *("quiet", "remote", "simple", "slow", "small", "strict", "urban", "vintage", "wild"),
)
TITLES = (
    "A field guide to {subject}",
    "Against {subject}",
    "{subject} at night",
    "{subject}, ten years on",
    "How we lost and found {subject}",
    "Notes on {subject}",
    "On {quality} {subject}",
    "The case for {quality} {subject}",
    "What {subject} taught me about {other}",
    "Why {subject} beat {other}",
)
WORDS = (
    *("about", "after", "because", "before", "between", "careful", "change", "every", "friend"),
    *("garden", "happens", "later", "letter", "machine", "measure", "morning", "never", "often"),
    *("paper", "people", "question", "reader", "simple", "slowly", "small", "story", "table"),
    *("their", "there", "thing", "think", "through", "under", "until", "water", "which", "write"),
)

# Texts are pieces of one long one: drawing every word would take most of the time.
_PROSE = random.Random(0).choices(WORDS, k=10_000)  # noqa: S311 - believable, not secret

_USER = (
    *(User.id, User.email, User.username, User.email_key, User.username_key, User.password_hash),
    *(User.full_name, User.role, User.is_active, User.created_at, User.updated_at),
)
_PROFILE = (Profile.user_id, Profile.bio, Profile.avatar_url)
_POST = (
    *(Post.id, Post.author_id, Post.title, Post.title_key, Post.content, Post.published),
    *(Post.created_at, Post.updated_at, Post.published_at),
)
_LINK = (PostTag.post_id, PostTag.tag_id)


class Plan(NamedTuple):
    """How much to make, and which of all such worlds: the same seed makes the same data."""

    users: int
    posts: int
    tags: int
    seed: int


async def seed(db: Database, plan: Plan, password_hash: str, progress: Progress) -> None:
    """Adds users, profiles, posts and tags in one transaction.

    Args:
        db: where to.
        plan: how much.
        password_hash: what every user's password hashes to.
        progress: told what was added and how many, batch by batch.

    Raises:
        AlreadyExists: when the database has users of this seed already; nothing is changed then.
    """
    draw = random.Random(plan.seed)  # noqa: S311 - believable, not secret
    async with db.transaction() as tx:
        joined = await _add_users(tx, plan, draw, password_hash, progress)
        tag_ids = await _add_tags(tx, plan, draw, progress)
        await _add_posts(tx, plan, draw, (joined, tag_ids), progress)


async def _add_users(
    tx: Transaction, plan: Plan, draw: random.Random, password_hash: str, progress: Progress
) -> list[tuple[Moment, int]]:
    """Adds users, some with a profile, and returns when each joined with their id, in order."""
    ids = await reserve_ids(tx, User.id, plan.users)
    joined = []
    for numbers in _batches(plan.users):
        users, profiles = [], []
        for number in numbers:
            full_name = f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}"
            username = f"{full_name.replace(' ', '.').lower()}.{plan.seed}.{number}"
            email = f"{_ascii(username)}@example.com"
            role = draw.choices(list(Role), weights=(985, 5, 10))[0]
            active, moment = draw.random() < ACTIVE, _moment(draw, FIRST_DAY, number, plan.users)
            keys = fold(email), fold(username)
            account = (ids[number], email, username, *keys, password_hash)
            users.append((*account, full_name, role, active, moment, moment))
            joined.append((moment, ids[number]))
            if draw.random() < WITH_PROFILE:
                avatar_url = f"https://example.com/avatars/{username}.png"
                profiles.append((ids[number], _text(draw, 20), avatar_url))
        await copy_in(tx, _USER, users)
        await copy_in(tx, _PROFILE, profiles)
        progress("users", len(numbers))
    return joined


async def _add_tags(
    tx: Transaction, plan: Plan, draw: random.Random, progress: Progress
) -> list[int]:
    """Adds tags, those that are not there yet, and returns the ids of all."""
    pairs = [f"{quality} {subject.lower()}" for quality in QUALITIES for subject in SUBJECTS]
    draw.shuffle(pairs)
    numbered = (f"{pair} {n}" for n in itertools.count(2) for pair in pairs)
    names = list(itertools.islice(itertools.chain(pairs, numbered), plan.tags))
    found = await tags.ensure(tx, names)
    progress("tags", len(names))
    return [found[tags.key_of(name)].id for name in names]


async def _add_posts(
    tx: Transaction,
    plan: Plan,
    draw: random.Random,
    there: tuple[Sequence[tuple[Moment, int]], Sequence[int]],
    progress: Progress,
) -> None:
    """Adds posts and their links to tags. Nobody writes before they have joined."""
    joined, tag_ids = there
    total = plan.posts if joined else 0
    ids = await reserve_ids(tx, Post.id, total)
    for numbers in _batches(total):
        posts, links = [], []
        for number in numbers:
            title, moment = _title(draw), _moment(draw, joined[0][0], number, total)
            published = draw.random() < PUBLISHED
            _, author_id = joined[_skewed(draw, bisect_right(joined, moment, key=itemgetter(0)))]
            text = _text(draw, draw.randint(30, 150))
            written = (ids[number], author_id, title, fold(title), text)
            posts.append((*written, published, moment, moment, moment if published else None))
            chosen = {_skewed(draw, len(tag_ids)) for _ in range(_tag_count(draw, tag_ids))}
            links += [(ids[number], tag_ids[place]) for place in sorted(chosen)]
        await copy_in(tx, _POST, posts)
        await copy_in(tx, _LINK, links)
        progress("posts", len(numbers))


def _batches(total: int) -> Iterator[range]:
    for start in range(0, total, BATCH):
        yield range(start, min(start + BATCH, total))


def _skewed(draw: random.Random, count: int) -> int:
    """One of so many places, by Zipf's law: the n-th is drawn a n-th as often as the first."""
    return min(int((count + 1) ** draw.random()), count) - 1


def _tag_count(draw: random.Random, tag_ids: Sequence[int]) -> int:
    return draw.choice(TAGS_OF_A_POST) if tag_ids else 0


def _moment(draw: random.Random, since: Moment, number: int, total: int) -> Moment:
    """When the one of this number came, of so many who came one after the other."""
    return since + round((LAST_DAY - since) * ((number + draw.random()) / total))


def _title(draw: random.Random) -> str:
    subject, other = draw.sample(SUBJECTS, 2)
    title = draw.choice(TITLES)
    return title.format(
        subject=subject if title.startswith("{subject}") else subject.lower(),
        other=other.lower(),
        quality=draw.choice(QUALITIES),
    )


def _text(draw: random.Random, words: int) -> str:
    start = draw.randrange(len(_PROSE) - words)
    return " ".join(_PROSE[start : start + words]).capitalize() + "."


def _ascii(text: str) -> str:
    """The text as an email address can hold it: without accents."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
