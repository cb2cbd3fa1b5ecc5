"""What a job asks of its worker, until when it must have begun, and why a worker is given no jobs.

A bridge of before goes on with these tables: it places by queue alone, and no job is late. An executor of before asks
for nothing.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mqtt_job", sa.Column("labels", sa.Text(), server_default="{}", nullable=False))
    op.add_column("mqtt_job", sa.Column("not_after", sa.Double(), nullable=True))
    op.add_column("mqtt_worker", sa.Column("note", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("mqtt_worker", "note")
    for column in ("not_after", "labels"):
        op.drop_column("mqtt_job", column)
