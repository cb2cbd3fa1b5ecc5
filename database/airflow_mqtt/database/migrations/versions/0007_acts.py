"""A record of what people did, and indexes for those who look at jobs.

A bridge and an executor of before go on with these tables.

Revision ID: 0007
Revises: 0006
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

LIVES = "finished_at IS NULL"
NEWS_SQLITE = "news = 1 AND (finished_at IS NULL OR report_pending = 1)"
WAITING = "finished_at IS NULL AND worker IS NULL"
HELD = "finished_at IS NULL AND worker IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "mqtt_act",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
    )
    op.create_index("ix_mqtt_act_team", "mqtt_act", ["team_name", "id"])
    op.create_index("ix_mqtt_act_subject", "mqtt_act", ["subject", "id"])
    _create_index("ix_mqtt_job_waiting", "team_name", "queue", "queued_at", where=WAITING)
    _create_index("ix_mqtt_job_held", "team_name", "worker", "slots", where=HELD)
    op.create_index("ix_mqtt_job_queued", "mqtt_job", ["queued_at", "id"])
    if op.get_context().dialect.name == "sqlite":
        # Of indexes that look alike to it, SQLite takes the one that was made last: those of the leader.
        for name, where in (("ix_mqtt_job_living", LIVES), ("ix_mqtt_job_news", NEWS_SQLITE)):
            op.drop_index(name, table_name="mqtt_job")
            _create_index(name, "team_name", where=where)


def downgrade() -> None:
    for name in ("ix_mqtt_job_queued", "ix_mqtt_job_held", "ix_mqtt_job_waiting"):
        op.drop_index(name, table_name="mqtt_job")
    op.drop_table("mqtt_act")


def _create_index(name: str, *columns: str, where: str) -> None:
    only: dict[str, Any] = {"postgresql_where": sa.text(where), "sqlite_where": sa.text(where)}
    op.create_index(name, "mqtt_job", list(columns), unique=False, **only)
