"""The first tables. A released migration is never edited, so it repeats the columns and does not import the models."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _key(name, kind):
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _required(name, kind):
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    _create_run_tables()
    _create_program_tables()
    _create_result_tables()


def _create_run_tables() -> None:
    op.create_table(
        "run",
        _key("id", sa.Integer),
        _required("name", sa.Text),
        _required("config", sa.Text),
        _required("versions", sa.Text),
        _required("created", sa.Double),
        _required("status", sa.Text),
        _required("elapsed", sa.Double),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True),
        _required("time", sa.Double),
        _required("kind", sa.Text),
        _required("message", sa.Text),
    )
    op.create_table("search_state", _key("run", sa.Integer), _required("state", sa.Text))


def _create_program_tables() -> None:
    op.create_table(
        "program",
        _key("hash", sa.Text),
        _required("statements", sa.Integer),
        _required("text", sa.Text),
        _required("first_birth", sa.Integer),
    )
    op.create_table(
        "birth",
        _key("index", sa.Integer),
        _required("hash", sa.Text),
        sa.Column("parent", sa.Integer),
        _required("mutation", sa.Text),
        _required("program", sa.Text),
        sa.Column("told", sa.Integer),
        sa.Column("fitness", sa.Double),
        sa.Column("status", sa.Text),
        _required("cached", sa.Boolean),
    )


def _create_result_tables() -> None:
    op.create_table(
        "evaluation",
        _key("hash", sa.Text),
        _key("task", sa.Text),
        _key("seed", sa.BigInteger),
        _required("version", sa.Text),
        _required("learning_rate_factor", sa.Double),
        _required("steps", sa.Integer),
        _required("status", sa.Text),
        sa.Column("loss", sa.Double),
        _required("seconds", sa.Double),
        _required("identity", sa.Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outcome",
        _key("hash", sa.Text),
        sa.Column("fitness", sa.Double),
        _required("status", sa.Text),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for name in ("outcome", "evaluation", "birth", "program", "search_state", "event", "run"):
        op.drop_table(name)
