"""Every table, once: the migrations are checked against these, the SQL is built from them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    literal_column,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column, relationship

from storage.casefold import EXPANSION
from storage.dialects.types import (
    ANY_UUID,
    GIVES_IDS,
    ID,
    LONG_BYTES,
    LONG_TEXT,
    MOMENT,
    NAME,
    TABLE_OPTIONS,
    clock,
    only,
    sorted_text,
)
from storage.moments import Moment  # noqa: TC001 - SQLAlchemy reads the annotations


class Base(DeclarativeBase):
    """Names every constraint, so that migrations and error translation can rely on the names."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )

    @classmethod
    def __table_cls__(cls, *arguments: Any, **options: Any) -> Table:  # noqa: ANN401 - what a table is made of
        """Makes the table as it is to be on every database."""
        return Table(*arguments, **options, **TABLE_OPTIONS)


class Role(StrEnum):
    """What a user may do, as the database keeps it."""

    USER = "user"
    ADMIN = "admin"
    MODERATOR = "moderator"


def _key(length: int) -> String:
    """A case-folded text."""
    return sorted_text(length * EXPANSION)


def _moment() -> MappedColumn[Moment]:
    """A moment by the database's clock."""
    return mapped_column(MOMENT, server_default=clock())


class User(Base):
    """An account."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(ID, Identity(always=True), primary_key=True)
    email: Mapped[str] = mapped_column(String(255))
    email_key: Mapped[str] = mapped_column(_key(255), unique=True)
    username: Mapped[str] = mapped_column(String(50))
    username_key: Mapped[str] = mapped_column(_key(50), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    full_name: Mapped[str | None] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(16), server_default=Role.USER)
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[Moment] = _moment()
    updated_at: Mapped[Moment] = _moment()

    profile: Mapped[Profile | None] = relationship(lazy="raise", back_populates="user")
    posts: Mapped[list[Post]] = relationship(lazy="raise", back_populates="author")

    __table_args__ = (
        CheckConstraint("role IN ('user', 'admin', 'moderator')", name="role"),
        Index(None, "created_at", "id"),
        # Few users are inactive and few are more than users: these indexes stay small, and the
        # many are found by the other orders.
        Index("ix_users_inactive", "id", **only("NOT is_active")),
        Index("ix_users_staff", "role", "id", **only("role <> 'user'")),
        # A substring of at least three characters is found by its trigrams. One list of rows for
        # each, and not one of each column, is half as much to write and to read. On SQLite the
        # index is a table of this name: see `migrations/steps.py`. The text is written as
        # PostgreSQL tells it, by which Alembic finds that it is the same.
        Index(
            "ix_users_search",
            literal_column("((username_key || ' ') || email_key)").label("texts"),
            postgresql_using="gin",
            postgresql_ops={"texts": "gin_trgm_ops"},
        ).ddl_if(dialect="postgresql"),
        GIVES_IDS,
    )


class Profile(Base):
    """What a user tells about themselves; goes when the user goes."""

    __tablename__ = "profiles"

    user_id: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("users.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    bio: Mapped[str] = mapped_column(Text)
    avatar_url: Mapped[str] = mapped_column(String(500))
    updated_at: Mapped[Moment] = _moment()

    user: Mapped[User] = relationship(lazy="raise", back_populates="profile")


class Post(Base):
    """Something a user writes; goes when the user goes."""

    __tablename__ = "posts"

    id: Mapped[int] = mapped_column(ID, Identity(always=True), primary_key=True)
    author_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    title_key: Mapped[str] = mapped_column(_key(200))
    content: Mapped[str] = mapped_column(LONG_TEXT)
    published: Mapped[bool]
    created_at: Mapped[Moment] = _moment()
    updated_at: Mapped[Moment] = _moment()
    published_at: Mapped[Moment | None] = mapped_column(MOMENT)

    author: Mapped[User] = relationship(lazy="raise", back_populates="posts")
    tags: Mapped[list[Tag]] = relationship(
        lazy="raise", back_populates="posts", secondary="post_tags"
    )

    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "title_key", "id"),
        # An author's newest posts, and the cascade from users.
        Index(None, "author_id", "created_at", "id"),
        Index(None, "author_id", "id"),
        # Who has published anything.
        Index("ix_posts_published", "author_id", **only("published")),
        Index("ix_posts_unpublished", "id", **only("NOT published")),
        Index(
            "ix_posts_search",
            "title_key",
            postgresql_using="gin",
            postgresql_ops={"title_key": "gin_trgm_ops"},
        ).ddl_if(dialect="postgresql"),
        GIVES_IDS,
    )


class Tag(Base):
    """What posts can be about."""

    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(ID, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    name_key: Mapped[str] = mapped_column(_key(50), unique=True)
    updated_at: Mapped[Moment] = _moment()

    posts: Mapped[list[Post]] = relationship(
        lazy="raise", back_populates="tags", secondary="post_tags"
    )

    __table_args__ = GIVES_IDS


class PostTag(Base):
    """That a post has a tag; goes when either goes."""

    __tablename__ = "post_tags"

    post_id: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("posts.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    tag_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("tags.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )

    __table_args__ = (Index(None, "tag_id", "post_id"),)


class UserPostCount(Base):
    """How many posts a user has written: a row for every user, kept by triggers.

    Beside the user and not in it, so that writing a post does not rewrite the wider row.
    """

    __tablename__ = "user_post_counts"

    user_id: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("users.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    post_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (Index(None, "post_count", "user_id"),)


class CreditAccount(Base):
    """What a user has: a row for every user, made by a trigger, kept while it is not empty.

    Beside the user and not in it, so that a transfer does not rewrite the wider row.
    """

    __tablename__ = "credit_accounts"

    user_id: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("users.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    available: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    held: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    updated_at: Mapped[Moment] = _moment()

    __table_args__ = (
        CheckConstraint("available >= 0", name="available"),
        CheckConstraint("held >= 0", name="held"),
    )


class EntryKind(StrEnum):
    """What the ledger can tell of credits. The last three each resolve a hold."""

    GRANT = "grant"
    TRANSFER = "transfer"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRY = "expiry"


class LedgerEntry(Base):
    """A line of the ledger, which is only ever added to: a trigger refuses everything else.

    It refers to no users, since it outlives them.
    """

    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(ID, Identity(always=True), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    from_user_id: Mapped[int | None] = mapped_column(BigInteger)
    to_user_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(BigInteger)
    memo: Mapped[str] = mapped_column(String(200))
    hold_id: Mapped[int | None] = mapped_column(BigInteger)
    expires_at: Mapped[Moment | None] = mapped_column(MOMENT)
    created_at: Mapped[Moment] = _moment()

    __table_args__ = (
        CheckConstraint(
            "kind IN ('grant', 'transfer', 'hold', 'capture', 'release', 'expiry')", name="kind"
        ),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("from_user_id <> to_user_id", name="to_another"),
        CheckConstraint("(from_user_id IS NULL) = (kind = 'grant')", name="from_nobody"),
        CheckConstraint("(expires_at IS NOT NULL) = (kind = 'hold')", name="expires"),
        CheckConstraint(
            "(hold_id IS NOT NULL) = (kind IN ('capture', 'release', 'expiry'))", name="resolves"
        ),
        # A hold is resolved at most once.
        Index(
            "ix_ledger_resolution",
            "hold_id",
            unique=True,
            **only("hold_id IS NOT NULL"),
        ),
        # What callers know as transfers, and among them the holds, which may be few.
        Index(
            "ix_ledger_outgoing",
            "from_user_id",
            "id",
            **only("hold_id IS NULL"),
        ),
        Index("ix_ledger_incoming", "to_user_id", "id", **only("hold_id IS NULL")),
        Index(
            "ix_ledger_outgoing_holds",
            "from_user_id",
            "id",
            **only("kind = 'hold'"),
        ),
        Index("ix_ledger_incoming_holds", "to_user_id", "id", **only("kind = 'hold'")),
        GIVES_IDS,
    )


class OpenHold(Base):
    """A hold of the ledger that nothing has resolved, expired or not; goes when it is resolved."""

    __tablename__ = "open_holds"

    transfer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    from_user_id: Mapped[int] = mapped_column(BigInteger)
    to_user_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[Moment] = mapped_column(MOMENT)

    __table_args__ = (
        Index(None, "from_user_id", "expires_at"),
        Index(None, "from_user_id", "transfer_id"),
        Index(None, "to_user_id", "transfer_id"),
        Index(None, "expires_at"),
    )


class Request(Base):
    """A call that took effect, and its answer for when it is sent again; goes in time."""

    __tablename__ = "requests"

    # The id first: it tells the calls apart, and the rest seldom does.
    request_id: Mapped[UUID] = mapped_column(ANY_UUID, primary_key=True)
    method: Mapped[str] = mapped_column(NAME, primary_key=True)
    caller: Mapped[str] = mapped_column(NAME, primary_key=True)
    digests: Mapped[dict[str, str]] = mapped_column(JSON)
    # None only within the transaction that serves the call.
    answer: Mapped[bytes | None] = mapped_column(LONG_BYTES)
    created_at: Mapped[Moment] = _moment()

    __table_args__ = (Index(None, "created_at"),)


class RequestKey(Base):
    """The secret that requests are digested with: one row."""

    __tablename__ = "request_keys"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    secret: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("id = 1", name="single"),)
