"""The tables of 0.1.0.

Revision ID: 0001
Revises:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LIVES = "finished_at IS NULL"


def upgrade() -> None:
    _create_mqtt_bridge()
    _create_mqtt_job()
    _create_mqtt_job_event()
    _create_mqtt_job_log()
    _create_mqtt_worker()


def downgrade() -> None:
    for table in ("mqtt_worker", "mqtt_job_log", "mqtt_job_event", "mqtt_job", "mqtt_bridge"):
        op.drop_table(table)  # and its indexes with it


def _create_mqtt_bridge() -> None:
    op.create_table(
        "mqtt_bridge",
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("holder", sa.Text(), server_default="", nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("team_name"),
    )


def _create_mqtt_job() -> None:
    op.create_table(
        "mqtt_job",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("workload_type", sa.Text(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("token_at", sa.Double(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("dag_id", sa.Text(), server_default="", nullable=False),
        sa.Column("run_id", sa.Text(), server_default="", nullable=False),
        sa.Column("task_id", sa.Text(), server_default="", nullable=False),
        sa.Column("map_index", sa.Integer(), server_default=sa.text("-1"), nullable=False),
        sa.Column("try_number", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("log_path", sa.Text(), server_default="", nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("report_pending", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("accept_journal", sa.Text(), nullable=True),
        sa.Column("accept_seq", sa.BigInteger(), nullable=True),
        sa.Column("gate_request", sa.Text(), nullable=True),
        sa.Column("unixname", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("final_state", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("log_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("publishes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("published_at", sa.Double(), nullable=True),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("dispatched_at", sa.Double(), nullable=True),
        sa.Column("accepted_at", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("running_since", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    _create_index("ix_mqtt_job_finished", "team_name", "finished_at")
    _create_index("ix_mqtt_job_placement", "team_name", "state", "queue", "priority", "queued_at", where=LIVES)
    _create_index("ix_mqtt_job_report", "team_name", "owner", where="report_pending", sqlite="report_pending = 1")
    _create_index("ix_mqtt_job_subject", "subject")
    _create_index("ix_mqtt_job_task", "dag_id", "run_id", "task_id", "map_index", "try_number")
    _create_index("ix_mqtt_job_worker", "worker", "state", where=LIVES)


def _create_index(name: str, *columns: str, where: str = "", sqlite: str = "") -> None:
    only: dict[str, Any] = (
        {"postgresql_where": sa.text(where), "sqlite_where": sa.text(sqlite or where)} if where else {}
    )
    op.create_index(name, "mqtt_job", list(columns), unique=False, **only)


def _create_mqtt_job_event() -> None:
    op.create_table(
        "mqtt_job_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_mqtt_job_event_job", "mqtt_job_event", ["job_id", "id"], unique=False)


def _create_mqtt_job_log() -> None:
    op.create_table(
        "mqtt_job_log",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", "offset"),
    )


def _create_mqtt_worker() -> None:
    op.create_table(
        "mqtt_worker",
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), server_default="{}", nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="{}", nullable=False),
        sa.Column("info", sa.Text(), server_default="{}", nullable=False),
        sa.Column("instance", sa.Text(), server_default="", nullable=False),
        sa.Column("connection", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("journal", sa.Text(), server_default="", nullable=False),
        sa.Column("past_journals", sa.Text(), server_default="[]", nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("birth", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("team_name", "name"),
    )
