"""Rejected events can be judged again; requests with an Idempotency-Key keep their answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("rejected_events", sa.Column("headers", sa.JSON(), nullable=True))
    op.add_column("rejected_events", sa.Column("outcome", sa.Text(), nullable=True))
    op.add_column("rejected_events", sa.Column("settled_at", sa.Float(), nullable=True))
    op.add_column("rejected_events", sa.Column("settled_by", sa.Text(), nullable=True))
    op.create_index(
        "ix_rejected_events_open",
        "rejected_events",
        ["id"],
        unique=False,
        sqlite_where=sa.text("outcome is null"),
        postgresql_where=sa.text("outcome is null"),
    )
    op.create_table(
        "answers",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("document", sa.JSON(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_answers")),
    )
    op.create_index("ix_answers_at", "answers", ["at"], unique=False)
    op.create_index("ix_audit_environment", "audit", ["environment_id", "seq"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_audit_environment", table_name="audit")
    op.drop_table("answers")
    op.drop_index("ix_rejected_events_open", table_name="rejected_events")
    for name in ("settled_by", "settled_at", "outcome", "headers"):
        op.drop_column("rejected_events", name)
