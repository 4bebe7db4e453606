"""Credits: what each user has, the ledger that says why, and the holds that are open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import steps
from migrations.steps import moment
from storage.dialects.types import GIVES_IDS, ID, MOMENT, TABLE_OPTIONS, only

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPEN_ACCOUNTS = """
CREATE FUNCTION byline_open_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO credit_accounts (user_id) SELECT id FROM changed_rows;
  RETURN NULL;
END $$
"""

# Whoever gives an account credits or a hold has locked its row: a deletion waits for them, and sees
# what they did.
_KEEP_CREDITS = """
CREATE FUNCTION byline_keep_credits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.available <> 0 OR OLD.held <> 0 OR EXISTS (
    SELECT FROM open_holds
    WHERE to_user_id = OLD.user_id AND expires_at > statement_timestamp()
  ) THEN
    RAISE restrict_violation USING
      CONSTRAINT = 'byline_keep_credits', MESSAGE = 'an account that is not empty cannot go';
  END IF;
  RETURN OLD;
END $$
"""

_KEEP_LEDGER = """
CREATE FUNCTION byline_keep_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE 'the ledger is only ever added to';
END $$
"""

POSTGRESQL = (
    _OPEN_ACCOUNTS,
    _KEEP_CREDITS,
    _KEEP_LEDGER,
    """
    CREATE TRIGGER open_accounts AFTER INSERT ON users REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION byline_open_accounts()
    """,
    """
    CREATE TRIGGER keep_credits BEFORE DELETE ON credit_accounts
    FOR EACH ROW EXECUTE FUNCTION byline_keep_credits()
    """,
    """
    CREATE TRIGGER keep_ledger BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION byline_keep_ledger()
    """,
)

_OPEN = "INSERT INTO credit_accounts (user_id) VALUES (NEW.id)"
# On the user: the database's cascade to the account runs no trigger.
MYSQL = (
    f"CREATE TRIGGER IF NOT EXISTS open_accounts AFTER INSERT ON users FOR EACH ROW {_OPEN}",
    """
    CREATE TRIGGER IF NOT EXISTS keep_credits BEFORE DELETE ON users FOR EACH ROW
    IF EXISTS (
      SELECT 1 FROM credit_accounts
      WHERE user_id = OLD.id AND (available <> 0 OR held <> 0) FOR UPDATE
    ) OR EXISTS (
      SELECT 1 FROM open_holds WHERE to_user_id = OLD.id AND expires_at > sysdate(6)
    ) THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'byline_keep_credits'; END IF
    """,
    *(
        f"CREATE TRIGGER IF NOT EXISTS keep_ledger_from_{event} BEFORE {event} ON ledger"
        " FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'byline_keep_ledger'"
        for event in ("UPDATE", "DELETE")
    ),
)
SQLITE = (
    f"CREATE TRIGGER open_accounts AFTER INSERT ON users BEGIN {_OPEN}; END",
    """
    CREATE TRIGGER keep_credits BEFORE DELETE ON credit_accounts
    WHEN OLD.available <> 0 OR OLD.held <> 0 OR EXISTS (
      SELECT 1 FROM open_holds WHERE to_user_id = OLD.user_id
      AND expires_at > (julianday('now') - 2440587.5) * 86400000000
    ) BEGIN SELECT RAISE(ABORT, 'byline_keep_credits'); END
    """,
    *(
        f"CREATE TRIGGER keep_ledger_from_{event} BEFORE {event} ON ledger"
        " BEGIN SELECT RAISE(ABORT, 'byline_keep_ledger'); END"
        for event in ("UPDATE", "DELETE")
    ),
)


def upgrade() -> None:
    """Makes the tables, opens an account for every user, and sets the triggers that guard them."""
    op.create_table(
        "credit_accounts",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("available", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        moment("updated_at"),
        sa.CheckConstraint("available >= 0", name=op.f("ck_credit_accounts_available")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_credit_accounts_held")),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_credit_accounts_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_credit_accounts")),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "ledger",
        sa.Column("id", ID, sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("from_user_id", sa.BigInteger()),
        sa.Column("to_user_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("memo", sa.String(200), nullable=False),
        sa.Column("hold_id", sa.BigInteger()),
        sa.Column("expires_at", MOMENT),
        moment("created_at"),
        sa.CheckConstraint(
            "kind IN ('grant', 'transfer', 'hold', 'capture', 'release', 'expiry')",
            name=op.f("ck_ledger_kind"),
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_ledger_amount")),
        sa.CheckConstraint("from_user_id <> to_user_id", name=op.f("ck_ledger_to_another")),
        sa.CheckConstraint(
            "(from_user_id IS NULL) = (kind = 'grant')", name=op.f("ck_ledger_from_nobody")
        ),
        sa.CheckConstraint(
            "(expires_at IS NOT NULL) = (kind = 'hold')", name=op.f("ck_ledger_expires")
        ),
        sa.CheckConstraint(
            "(hold_id IS NOT NULL) = (kind IN ('capture', 'release', 'expiry'))",
            name=op.f("ck_ledger_resolves"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        **TABLE_OPTIONS,
        **GIVES_IDS,
    )
    _create_index("ledger", "resolution", "hold_id IS NOT NULL", "hold_id", unique=True)
    _create_index("ledger", "outgoing", "hold_id IS NULL", "from_user_id", "id")
    _create_index("ledger", "incoming", "hold_id IS NULL", "to_user_id", "id")
    _create_index("ledger", "outgoing_holds", "kind = 'hold'", "from_user_id", "id")
    _create_index("ledger", "incoming_holds", "kind = 'hold'", "to_user_id", "id")
    op.create_table(
        "open_holds",
        sa.Column("transfer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("from_user_id", sa.BigInteger(), nullable=False),
        sa.Column("to_user_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("transfer_id", name=op.f("pk_open_holds")),
        **TABLE_OPTIONS,
    )
    for columns in (
        ["from_user_id", "expires_at"],
        ["from_user_id", "transfer_id"],
        ["to_user_id", "transfer_id"],
        ["expires_at"],
    ):
        op.create_index(op.f(f"ix_open_holds_{'_'.join(columns)}"), "open_holds", columns)
    steps.execute(postgresql=POSTGRESQL, mysql=MYSQL, sqlite=SQLITE)
    # No user slips in between the trigger and this.
    steps.add_row_for_each_user("credit_accounts")


def downgrade() -> None:
    """Drops the tables with all credits, and the triggers with them."""
    steps.execute(
        postgresql=["DROP TRIGGER open_accounts ON users"],
        mysql=[f"DROP TRIGGER IF EXISTS {name}" for name in ("keep_credits", "open_accounts")],
        sqlite=["DROP TRIGGER open_accounts"],
    )
    for table in ("open_holds", "ledger", "credit_accounts"):
        op.drop_table(table)
    functions = ("byline_open_accounts", "byline_keep_credits", "byline_keep_ledger")
    steps.execute(postgresql=[f"DROP FUNCTION {function}()" for function in functions])


def _create_index(table: str, name: str, where: str, *columns: str, unique: bool = False) -> None:
    op.create_index(f"ix_{table}_{name}", table, list(columns), unique=unique, **only(where))
