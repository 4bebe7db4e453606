"""Users and profiles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import steps
from migrations.steps import moment
from storage.dialects.types import GIVES_IDS, ID, TABLE_OPTIONS, only, sorted_text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables, and the trigram extension that the search index needs."""
    steps.execute(postgresql=["CREATE EXTENSION IF NOT EXISTS pg_trgm"])
    op.create_table(
        "users",
        sa.Column("id", ID, sa.Identity(always=True), nullable=False),
        sa.Column("email", sa.String(255), nullable=False),
        sa.Column("email_key", sorted_text(765), nullable=False),
        sa.Column("username", sa.String(50), nullable=False),
        sa.Column("username_key", sorted_text(150), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("full_name", sa.String(100)),
        sa.Column("role", sa.String(16), server_default="user", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.CheckConstraint("role IN ('user', 'admin', 'moderator')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email_key", name=op.f("uq_users_email_key")),
        sa.UniqueConstraint("username_key", name=op.f("uq_users_username_key")),
        **TABLE_OPTIONS,
        **GIVES_IDS,
    )
    op.create_index(op.f("ix_users_created_at_id"), "users", ["created_at", "id"])
    op.create_index("ix_users_inactive", "users", ["id"], **only("NOT is_active"))
    op.create_index("ix_users_staff", "users", ["role", "id"], **only("role <> 'user'"))
    steps.create_search_index("ix_users_search", "users", "username_key", "email_key")
    op.create_table(
        "profiles",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("bio", sa.Text(), nullable=False),
        sa.Column("avatar_url", sa.String(500), nullable=False),
        moment("updated_at"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_profiles_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_profiles")),
        **TABLE_OPTIONS,
    )


def downgrade() -> None:
    """Drops the tables. The extension stays: others may use it."""
    op.drop_table("profiles")
    op.drop_table("users")
    steps.drop_search_index("ix_users_search")
