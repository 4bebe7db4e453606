"""Requests that were answered, and the secret that they are digested with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.steps import moment
from storage.dialects.types import ANY_UUID, LONG_BYTES, NAME, TABLE_OPTIONS

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "requests",
        sa.Column("request_id", ANY_UUID, nullable=False),
        sa.Column("method", NAME, nullable=False),
        sa.Column("caller", NAME, nullable=False),
        sa.Column("digests", sa.JSON(), nullable=False),
        sa.Column("answer", LONG_BYTES),
        moment("created_at"),
        sa.PrimaryKeyConstraint("request_id", "method", "caller", name=op.f("pk_requests")),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_requests_created_at"), "requests", ["created_at"])
    op.create_table(
        "request_keys",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_request_keys_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_keys")),
        **TABLE_OPTIONS,
    )


def downgrade() -> None:
    """Drops the tables. What was answered before is forgotten."""
    op.drop_table("request_keys")
    op.drop_table("requests")
