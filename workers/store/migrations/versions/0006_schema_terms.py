"""Which programs a schema still serves: the oldest one's newest revision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "schema_terms",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("oldest_program", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_terms")),
    )
    op.execute("INSERT INTO schema_terms (id, oldest_program) VALUES (1, '0006')")


def downgrade() -> None:
    """Take back."""
    op.drop_table("schema_terms")
