"""An index for looks at what has ended, by state: on SQLite.

A bridge and an executor of before go on with these tables.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        columns = ["team_name", "state", "queued_at", "id"]
        where = sa.text("finished_at IS NOT NULL")
        op.create_index("ix_mqtt_job_ended", "mqtt_job", columns, unique=False, sqlite_where=where)


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.drop_index("ix_mqtt_job_ended", table_name="mqtt_job")
