"""How large a log is on its device, and which end of it came before its middle.

A bridge of before goes on with these tables: it takes no end of a log before its middle, and says no sizes.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mqtt_job", sa.Column("log_size", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("mqtt_job", sa.Column("log_tail", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("log_tail", "log_size"):
        op.drop_column("mqtt_job", column)
