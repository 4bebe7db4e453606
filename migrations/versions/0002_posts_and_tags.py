"""Posts and tags, and how many posts each user has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import steps
from migrations.steps import moment
from storage.dialects.types import (
    GIVES_IDS,
    ID,
    LONG_TEXT,
    MOMENT,
    TABLE_OPTIONS,
    only,
    sorted_text,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Each trigger runs once a statement, on all rows that the statement changed: a cascade over 100,000
# posts changes the count once. The rows it counts into are locked in id order.
_COUNT_POSTS = """
CREATE FUNCTION byline_count_posts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  WITH changed AS (
    SELECT author_id, count(*) AS posts FROM changed_rows GROUP BY author_id
  ), locked AS (
    SELECT user_id FROM user_post_counts JOIN changed ON author_id = user_id
    ORDER BY user_id FOR NO KEY UPDATE OF user_post_counts
  )
  UPDATE user_post_counts AS counts
  SET post_count = post_count + TG_ARGV[0]::int * changed.posts
  FROM changed, locked
  WHERE counts.user_id = changed.author_id AND locked.user_id = counts.user_id;
  RETURN NULL;
END $$
"""

_COUNT_FOR_USERS = """
CREATE FUNCTION byline_count_for_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO user_post_counts (user_id) SELECT id FROM changed_rows;
  RETURN NULL;
END $$
"""

_TRIGGER = """
CREATE TRIGGER {name} AFTER {event} ON {table}
REFERENCING {rows} TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION {function}({argument})
"""

_TRIGGERS = (
    ("count_added_posts", "INSERT", "posts", "NEW", "byline_count_posts", "'1'"),
    ("count_removed_posts", "DELETE", "posts", "OLD", "byline_count_posts", "'-1'"),
    ("count_for_users", "INSERT", "users", "NEW", "byline_count_for_users", ""),
)

POSTGRESQL = (
    _COUNT_POSTS,
    _COUNT_FOR_USERS,
    *(
        _TRIGGER.format(
            name=name, event=event, table=table, rows=rows, function=function, argument=argument
        )
        for name, event, table, rows, function, argument in _TRIGGERS
    ),
)
_COUNT_ROW = """
UPDATE user_post_counts SET post_count = post_count {change} WHERE user_id = {row}.author_id
"""
# These run once a row.
_ROW_TRIGGERS = (
    ("count_added_posts AFTER INSERT ON posts", _COUNT_ROW.format(row="NEW", change="+ 1")),
    ("count_removed_posts AFTER DELETE ON posts", _COUNT_ROW.format(row="OLD", change="- 1")),
    (
        "count_for_users AFTER INSERT ON users",
        "INSERT INTO user_post_counts (user_id) VALUES (NEW.id)",
    ),
)
MYSQL = [
    f"CREATE TRIGGER IF NOT EXISTS {event} FOR EACH ROW {body}" for event, body in _ROW_TRIGGERS
]
SQLITE = [f"CREATE TRIGGER {event} BEGIN {body}; END" for event, body in _ROW_TRIGGERS]


def upgrade() -> None:
    """Makes the tables, starts every user's count at none, and keeps the counts by triggers."""
    op.create_table(
        "posts",
        sa.Column("id", ID, sa.Identity(always=True), nullable=False),
        sa.Column("author_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("title_key", sorted_text(600), nullable=False),
        sa.Column("content", LONG_TEXT, nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.Column("published_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["author_id"], ["users.id"], name=op.f("fk_posts_author_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_posts")),
        **TABLE_OPTIONS,
        **GIVES_IDS,
    )
    op.create_index(op.f("ix_posts_created_at_id"), "posts", ["created_at", "id"])
    op.create_index(op.f("ix_posts_title_key_id"), "posts", ["title_key", "id"])
    op.create_index(
        op.f("ix_posts_author_id_created_at_id"), "posts", ["author_id", "created_at", "id"]
    )
    op.create_index(op.f("ix_posts_author_id_id"), "posts", ["author_id", "id"])
    op.create_index("ix_posts_published", "posts", ["author_id"], **only("published"))
    op.create_index("ix_posts_unpublished", "posts", ["id"], **only("NOT published"))
    steps.create_search_index("ix_posts_search", "posts", "title_key")
    op.create_table(
        "tags",
        sa.Column("id", ID, sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("name_key", sorted_text(150), nullable=False),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tags")),
        sa.UniqueConstraint("name_key", name=op.f("uq_tags_name_key")),
        **TABLE_OPTIONS,
        **GIVES_IDS,
    )
    op.create_table(
        "post_tags",
        sa.Column("post_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tag_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["post_id"], ["posts.id"], name=op.f("fk_post_tags_post_id_posts"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["tags.id"], name=op.f("fk_post_tags_tag_id_tags"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("post_id", "tag_id", name=op.f("pk_post_tags")),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_post_tags_tag_id_post_id"), "post_tags", ["tag_id", "post_id"])
    op.create_table(
        "user_post_counts",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("post_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_user_post_counts_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_user_post_counts")),
        **TABLE_OPTIONS,
    )
    op.create_index(
        op.f("ix_user_post_counts_post_count_user_id"),
        "user_post_counts",
        ["post_count", "user_id"],
    )
    steps.execute(postgresql=POSTGRESQL, mysql=MYSQL, sqlite=SQLITE)
    # No user slips in between the trigger and this.
    steps.add_row_for_each_user("user_post_counts")


def downgrade() -> None:
    """Drops the tables, and the triggers with them."""
    steps.execute(
        postgresql=["DROP TRIGGER count_for_users ON users"],
        mysql=["DROP TRIGGER IF EXISTS count_for_users"],
        sqlite=["DROP TRIGGER count_for_users"],
    )
    for table in ("user_post_counts", "post_tags", "tags", "posts"):
        op.drop_table(table)
    steps.drop_search_index("ix_posts_search")
    functions = ("byline_count_posts", "byline_count_for_users")
    steps.execute(postgresql=[f"DROP FUNCTION {function}()" for function in functions])
