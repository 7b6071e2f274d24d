"""Operations of revisions on large tables under working programs."""

from __future__ import annotations

from typing import Any

from alembic import op


def create_index(name: str, table: str, columns: list[str], **options: Any) -> None:
    """Create an index while others write (PostgreSQL: CONCURRENTLY, outside any transaction).

    One whose building was cut off is there and invalid: it is dropped and built anew.
    """
    context = op.get_context()
    if context.dialect.name != "postgresql":
        op.create_index(name, table, columns, **options)
        return
    with context.autocommit_block():
        op.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"')
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
