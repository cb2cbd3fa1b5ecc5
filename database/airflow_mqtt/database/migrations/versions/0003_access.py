"""Which worker may serve which queue, and what jobs of a queue may call.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mqtt_access",
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("document", sa.Text(), server_default="{}", nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("team_name"),
    )


def downgrade() -> None:
    op.drop_table("mqtt_access")
