"""Which workspaces are revoked as a whole, and which generation of the platform's own key seals an upload."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "revoked_workspaces",
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("workspace", name=op.f("pk_revoked_workspaces")),
    )
    for table in ("upload_params", "uploaded_keys"):
        op.add_column(table, sa.Column("generation", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take back."""
    for table in ("upload_params", "uploaded_keys"):
        op.drop_column(table, "generation")
    op.drop_table("revoked_workspaces")
