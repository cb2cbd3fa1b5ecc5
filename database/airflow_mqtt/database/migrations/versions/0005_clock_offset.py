"""How far a worker's clock is from the site's, for people and for the next leader.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mqtt_worker", sa.Column("clock_offset", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("mqtt_worker", "clock_offset")
