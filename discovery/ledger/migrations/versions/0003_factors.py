"""Evaluations at several learning rates and lengths, on several blocks of seeds, and on the levels of the funnel."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OLD = "hash, task, seed, version, learning_rate_factor"
_REST = "status, loss, seconds, identity"


def _key(name, kind):
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _required(name, kind, default=None):
    return sa.Column(name, kind, nullable=False, server_default=default)


def upgrade() -> None:
    _widen_the_key_of_evaluations()
    with op.batch_alter_table("program") as table:
        table.add_column(_required("states", sa.Integer, "0"))
        table.add_column(_required("operations", sa.Integer, "0"))
    op.add_column("birth", sa.Column("block", sa.Integer))
    op.execute("update birth set block = 0 where told is null")
    with op.batch_alter_table("outcome") as table:
        table.add_column(_required("scores", sa.Text, "[]"))
    number = "cast(fitness as text)"
    op.execute(f"update outcome set scores = '[' || {number} || ']' where status = 'ok' and fitness is not null")
    op.create_table(
        "level",
        _key("level", sa.Text),
        _key("hash", sa.Text),
        sa.Column("told", sa.Integer),
        sa.Column("fitness", sa.Double),
        sa.Column("error", sa.Double),
        _required("status", sa.Text),
        _required("detail", sa.Text),
    )


def _widen_the_key_of_evaluations() -> None:
    op.rename_table("evaluation", "evaluation_before")
    op.create_table(
        "evaluation",
        _key("hash", sa.Text),
        _key("task", sa.Text),
        _key("seed", sa.BigInteger),
        _required("version", sa.Text),
        _key("learning_rate_factor", sa.Double),
        _key("budget", sa.Integer),
        _required("steps", sa.Integer),
        _required("status", sa.Text),
        sa.Column("loss", sa.Double),
        _required("seconds", sa.Double),
        _required("identity", sa.Text),
        sqlite_with_rowid=False,
    )
    op.execute(f"insert into evaluation ({_OLD}, budget, steps, {_REST}) select {_OLD}, steps, steps, {_REST} from evaluation_before")
    op.drop_table("evaluation_before")


def downgrade() -> None:
    raise NotImplementedError("evaluations at other learning rates and lengths have no place in the older tables")
