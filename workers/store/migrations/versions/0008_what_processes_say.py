"""What the processes say of themselves: workers, canaries, counters, checks of the audit chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from workers.store.types import BigId

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "workers_seen",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("queues", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("progressed_at", sa.Float(), nullable=True),
        sa.Column("canary_at", sa.Float(), nullable=True),
        sa.Column("lock_noticed_at", sa.Float(), nullable=True),
        sa.Column("lock_notice_seconds", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_workers_seen")),
    )
    op.create_table(
        "canaries",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("arrived_at", sa.Float(), nullable=False),
        sa.Column("wait_seconds", sa.Float(), nullable=True),
        sa.Column("arrived_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_canaries")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_counters")),
    )
    op.create_table(
        "audit_checks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("checked_at", sa.Float(), nullable=False),
        sa.Column("records", BigId, nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("broken_at", BigId, nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_checks")),
    )
    op.create_index("ix_repacks_ended_at", "repacks", ["ended_at"], unique=False)
    quarantined = sa.text("state = 'finished_with_quarantine'")
    op.create_index(
        "ix_repacks_quarantined",
        "repacks",
        ["id"],
        unique=False,
        sqlite_where=quarantined,
        postgresql_where=quarantined,
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_repacks_quarantined", table_name="repacks")
    op.drop_index("ix_repacks_ended_at", table_name="repacks")
    op.drop_table("audit_checks")
    op.drop_table("counters")
    op.drop_table("canaries")
    op.drop_table("workers_seen")
