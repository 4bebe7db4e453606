"""Posts and tags, and how many posts each user has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Each trigger runs once a statement, on all rows that the statement changed: a cascade over 100,000
# posts changes the count once. The rows it counts into are locked in id order.
COUNT_POSTS = """
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

COUNT_FOR_USERS = """
CREATE FUNCTION byline_count_for_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO user_post_counts (user_id) SELECT id FROM changed_rows;
  RETURN NULL;
END $$
"""

TRIGGER = """
CREATE TRIGGER {name} AFTER {event} ON {table}
REFERENCING {rows} TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION {function}({argument})
"""

TRIGGERS = (
    ("count_added_posts", "INSERT", "posts", "NEW", "byline_count_posts", "'1'"),
    ("count_removed_posts", "DELETE", "posts", "OLD", "byline_count_posts", "'-1'"),
    ("count_for_users", "INSERT", "users", "NEW", "byline_count_for_users", ""),
)


def upgrade() -> None:
    """Makes the tables, starts every user's count at none, and keeps the counts by triggers."""
    op.create_table(
        "posts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("author_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("title_key", sa.String(600, collation="C"), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["author_id"], ["users.id"], name=op.f("fk_posts_author_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_posts")),
    )
    op.create_index(op.f("ix_posts_created_at_id"), "posts", ["created_at", "id"])
    op.create_index(op.f("ix_posts_title_key_id"), "posts", ["title_key", "id"])
    op.create_index(
        op.f("ix_posts_author_id_created_at_id"), "posts", ["author_id", "created_at", "id"]
    )
    op.create_index(op.f("ix_posts_author_id_id"), "posts", ["author_id", "id"])
    op.create_index(
        "ix_posts_published", "posts", ["author_id"], postgresql_where=sa.text("published")
    )
    op.create_index(
        "ix_posts_unpublished", "posts", ["id"], postgresql_where=sa.text("NOT published")
    )
    op.create_index(
        "ix_posts_search",
        "posts",
        ["title_key"],
        postgresql_using="gin",
        postgresql_ops={"title_key": "gin_trgm_ops"},
    )
    op.create_table(
        "tags",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("name_key", sa.String(150, collation="C"), nullable=False),
        _moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tags")),
        sa.UniqueConstraint("name_key", name=op.f("uq_tags_name_key")),
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
    )
    op.create_index(
        op.f("ix_user_post_counts_post_count_user_id"),
        "user_post_counts",
        ["post_count", "user_id"],
    )
    for function in (COUNT_POSTS, COUNT_FOR_USERS):
        op.execute(function)
    for name, event, table, rows, function, argument in TRIGGERS:
        op.execute(
            TRIGGER.format(
                name=name, event=event, table=table, rows=rows, function=function, argument=argument
            )
        )
    # The trigger's lock on users lets no user slip in between it and this.
    op.execute("INSERT INTO user_post_counts (user_id) SELECT id FROM users")


def downgrade() -> None:
    """Drops the tables, and the triggers with them."""
    op.execute("DROP TRIGGER count_for_users ON users")
    for table in ("user_post_counts", "post_tags", "tags", "posts"):
        op.drop_table(table)
    for function in ("byline_count_posts", "byline_count_for_users"):
        op.execute(f"DROP FUNCTION {function}()")


def _moment(name: str) -> sa.Column[object]:
    """A column of a moment by the database's clock."""
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )
