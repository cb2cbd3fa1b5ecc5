"""Which worker may serve which queue, and what jobs of a queue may call.

A site that has workers goes on as before: all of them may serve every queue until somebody says less. A new site begins
with an empty list.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AS_BEFORE = """
    INSERT INTO mqtt_access (team_name, document, revision)
    SELECT DISTINCT team_name, '{"serve":[["*","*"]]}', 1 FROM mqtt_worker
"""


def upgrade() -> None:
    op.create_table(
        "mqtt_access",
        sa.Column("team_name", sa.Text(), server_default="", nullable=False),
        sa.Column("document", sa.Text(), server_default="{}", nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("team_name"),
    )
    op.execute(sa.text(AS_BEFORE))


def downgrade() -> None:
    op.drop_table("mqtt_access")
