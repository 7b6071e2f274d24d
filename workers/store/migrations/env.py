"""Alembic's entry: runs the revisions on the connection that `schema.migrate` hands in.

On PostgreSQL each in a transaction of its own: what a revision locks, others get as soon as it is done.
"""

from __future__ import annotations

from alembic import context

from workers.store.models import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
