"""What bridges say of themselves: the leader's word, and who stands by.

A bridge of before goes on with these tables, and says nothing.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mqtt_bridge", sa.Column("word", sa.Text(), server_default="{}", nullable=False))
    op.create_table(
        "mqtt_standby",
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), server_default="", nullable=False),
        sa.Column("version", sa.Text(), server_default="", nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("team_name", "instance"),
    )


def downgrade() -> None:
    op.drop_table("mqtt_standby")
    op.drop_column("mqtt_bridge", "word")
