"""Indexes for those who look at queues, and for the end of what people did long ago.

A bridge and an executor of before go on with these tables.

Revision ID: 0010
Revises: 0009
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WAITING = "finished_at IS NULL AND worker IS NULL"
HELD = "finished_at IS NULL AND worker IS NOT NULL"

#: Of indexes that look alike to it, SQLite takes the one that was made last: those of leader and schedulers.
LAST = (
    ("ix_mqtt_job_report", ("team_name", "owner"), "report_pending = 1"),
    ("ix_mqtt_job_living", ("team_name",), "finished_at IS NULL"),
    ("ix_mqtt_job_news", ("team_name",), "news = 1 AND (finished_at IS NULL OR report_pending = 1)"),
)


def upgrade() -> None:
    _drop("mqtt_job", "ix_mqtt_job_queued", "ix_mqtt_job_held", "ix_mqtt_job_waiting")
    waiting = ("team_name", "queue", "queued_at", "slots", "finished_at", "worker", "labels")
    _create("ix_mqtt_job_waiting", *waiting, where=f"{WAITING} AND labels = '{{}}'")
    _create("ix_mqtt_job_held", "team_name", "worker", "queue", "slots", "finished_at", where=HELD)
    _create("ix_mqtt_job_asking", "team_name", "queue", where=f"{WAITING} AND labels <> '{{}}'")
    op.create_index("ix_mqtt_job_queued", "mqtt_job", ["team_name", "queued_at", "id"])
    _drop("mqtt_act", "ix_mqtt_act_subject")
    op.create_index("ix_mqtt_act_subject", "mqtt_act", ["team_name", "subject", "id"])
    op.create_index("ix_mqtt_act_at", "mqtt_act", ["team_name", "at"])
    _make_last()


def downgrade() -> None:
    _drop("mqtt_act", "ix_mqtt_act_at", "ix_mqtt_act_subject")
    op.create_index("ix_mqtt_act_subject", "mqtt_act", ["subject", "id"])
    _drop("mqtt_job", "ix_mqtt_job_queued", "ix_mqtt_job_asking", "ix_mqtt_job_held", "ix_mqtt_job_waiting")
    _create("ix_mqtt_job_waiting", "team_name", "queue", "queued_at", where=WAITING)
    _create("ix_mqtt_job_held", "team_name", "worker", "slots", where=HELD)
    op.create_index("ix_mqtt_job_queued", "mqtt_job", ["queued_at", "id"])
    _make_last()


def _make_last() -> None:
    if op.get_context().dialect.name == "sqlite":
        for name, columns, where in LAST:
            _drop("mqtt_job", name)
            _create(name, *columns, where=where)


def _drop(table: str, *indexes: str) -> None:
    for name in indexes:
        op.drop_index(name, table_name=table)


def _create(name: str, *columns: str, where: str) -> None:
    only: dict[str, Any] = {"postgresql_where": sa.text(where), "sqlite_where": sa.text(where)}
    op.create_index(name, "mqtt_job", list(columns), unique=False, **only)
