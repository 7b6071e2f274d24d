"""What was last seen of each main key in use, and when it is looked at next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "main_keys",
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("generation", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("since", sa.Float(), nullable=True),
        sa.Column("last_looked_at", sa.Float(), nullable=True),
        sa.Column("last_answered_at", sa.Float(), nullable=True),
        sa.Column("next_look_at", sa.Float(), nullable=False),
        sa.Column("interval", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("uri", name=op.f("pk_main_keys")),
    )
    op.create_index("ix_main_keys_due", "main_keys", ["next_look_at"], unique=False)
    op.create_index("ix_top_versions_main_key", "top_versions", ["main_key", "state", "environment"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_top_versions_main_key", table_name="top_versions")
    op.drop_index("ix_main_keys_due", table_name="main_keys")
    op.drop_table("main_keys")
