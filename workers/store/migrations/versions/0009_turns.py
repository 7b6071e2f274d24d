"""When a worker last took a repack up: the one that has waited longest is next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("repacks", sa.Column("turn_at", sa.Float(), nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("repacks", "turn_at")
