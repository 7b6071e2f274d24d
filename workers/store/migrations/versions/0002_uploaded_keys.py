"""Keys that customers upload, and the parameters they wrap them by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from workers.store.types import BigId, Uid

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "upload_params",
        sa.Column("id", BigId, nullable=False),
        sa.Column("params_id", Uid(), nullable=False),
        sa.Column("environment", BigId, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_private_key", sa.LargeBinary(), nullable=True),
        sa.Column("refusals", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environments.id"], name=op.f("fk_upload_params_environment")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_params")),
        sa.UniqueConstraint("params_id", name=op.f("uq_upload_params_params_id")),
    )
    op.create_index(
        "ix_upload_params_open",
        "upload_params",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "uploaded_keys",
        sa.Column("id", BigId, nullable=False),
        sa.Column("key_id", Uid(), nullable=False),
        sa.Column("environment", BigId, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environments.id"], name=op.f("fk_uploaded_keys_environment")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploaded_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_uploaded_keys_key_id")),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("uploaded_keys")
    op.drop_index("ix_upload_params_open", table_name="upload_params")
    op.drop_table("upload_params")
