"""What a leader that holds the living in memory hears of: news, wishes for an end, workers to be forgotten.

A bridge of 0.1.0 goes on with these tables: it knows none of the new columns, and reads the living by their index.

Revision ID: 0002
Revises: 0001
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVES = "finished_at IS NULL"
NEWS = "news AND (finished_at IS NULL OR report_pending)"
NEWS_SQLITE = "news = 1 AND (finished_at IS NULL OR report_pending = 1)"

#: What an executor of 0.1.0 writes into a job that is to end, where this version writes a wish.
CANCEL_WISHED = """
    UPDATE mqtt_job SET state = 'cancelling', reason = cancel_reason, published_at = NULL, publishes = 0
    WHERE cancel_reason IS NOT NULL AND state IN ('dispatched', 'accepted', 'running')
"""


def upgrade() -> None:
    op.add_column("mqtt_job", sa.Column("cancel_reason", sa.Text(), nullable=True))
    op.add_column("mqtt_job", sa.Column("cancel_by", sa.Text(), server_default="", nullable=False))
    op.add_column("mqtt_job", sa.Column("api_version", sa.Text(), server_default="", nullable=False))
    _add_news_of_jobs()
    op.add_column("mqtt_worker", sa.Column("removal", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("mqtt_worker", sa.Column("news", sa.Boolean(), server_default=sa.false(), nullable=False))
    for name in ("ix_mqtt_job_placement", "ix_mqtt_job_worker", "ix_mqtt_job_subject"):
        op.drop_index(name, table_name="mqtt_job")
    _create_index("ix_mqtt_job_living", "mqtt_job", "team_name", where=LIVES)
    _create_index("ix_mqtt_job_news", "mqtt_job", "team_name", where=NEWS, sqlite=NEWS_SQLITE)
    _create_index("ix_mqtt_job_subject", "mqtt_job", "subject", where=LIVES)
    _create_index("ix_mqtt_worker_news", "mqtt_worker", "team_name", where="news", sqlite="news = 1")


def _add_news_of_jobs() -> None:
    """True for rows to come, false for those that are there: a new leader reads all the living at its takeover.

    PostgreSQL keeps a default for the rows that were there before, and writes none of them. SQLite cannot change a
    default without making the table anew, which costs more than writing its rows.
    """
    if op.get_context().dialect.name == "sqlite":
        op.add_column("mqtt_job", sa.Column("news", sa.Boolean(), server_default=sa.true(), nullable=False))
        op.execute("UPDATE mqtt_job SET news = 0")
        return
    op.add_column("mqtt_job", sa.Column("news", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.alter_column("mqtt_job", "news", server_default=sa.true())


def downgrade() -> None:
    for name, table in (
        ("ix_mqtt_worker_news", "mqtt_worker"),
        ("ix_mqtt_job_subject", "mqtt_job"),
        ("ix_mqtt_job_news", "mqtt_job"),
        ("ix_mqtt_job_living", "mqtt_job"),
    ):
        op.drop_index(name, table_name=table)
    op.execute(CANCEL_WISHED)
    for column in ("removal", "news"):
        op.drop_column("mqtt_worker", column)
    for column in ("cancel_reason", "cancel_by", "api_version", "news"):
        op.drop_column("mqtt_job", column)
    _create_index(
        "ix_mqtt_job_placement", "mqtt_job", "team_name", "state", "queue", "priority", "queued_at", where=LIVES
    )
    _create_index("ix_mqtt_job_worker", "mqtt_job", "worker", "state", where=LIVES)
    op.create_index("ix_mqtt_job_subject", "mqtt_job", ["subject"])


def _create_index(name: str, table: str, *columns: str, where: str, sqlite: str = "") -> None:
    only: dict[str, Any] = {"postgresql_where": sa.text(where), "sqlite_where": sa.text(sqlite or where)}
    op.create_index(name, table, list(columns), unique=False, **only)
