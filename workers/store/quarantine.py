"""Keys set aside with their reason: one bad key never holds up the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schemas.keys import KeyKind
from schemas.states import Stage
from workers.errors import WrapReason
from workers.store.models import quarantine, wrapping_keys
from workers.store.types import db_now


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A key that could not be rewrapped. `parent_version` is the version it holds back."""

    kind: KeyKind
    key: int
    key_version: int
    key_id: UUID
    parent: int | None
    parent_version: int
    reason: WrapReason


def set_aside(connection: Connection, *, repack: int, environment: int, stage: Stage, keys: Sequence[SetAside]) -> None:
    """Record keys; one that is already set aside is not recorded twice."""
    if not keys:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    common = {"repack": repack, "environment": environment, "stage": stage, "open": True}
    for key in keys:
        values = {name: getattr(key, name) for name in SetAside.__slots__}
        statement = dialect.insert(quarantine).values(**common, **values, created_at=db_now())
        connection.execute(statement.on_conflict_do_nothing())


def list_quarantine(
    connection: Connection, *, repack: int | None = None, environment: int | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """List the keys that are set aside now, with the outer id of the parent whose version each holds back."""
    parents = wrapping_keys.alias("parents")
    query = (
        select(quarantine, parents.c.key_id.label("parent_key_id"))
        .outerjoin(parents, parents.c.id == quarantine.c.parent)
        .where(quarantine.c.open)
        .order_by(quarantine.c.id)
        .limit(limit)
    )
    if repack is not None:
        query = query.where(quarantine.c.repack == repack)
    if environment is not None:
        query = query.where(quarantine.c.environment == environment)
    return [dict(row) for row in connection.execute(query).mappings()]


def count_open(connection: Connection, *, environment: int, stage: Stage | None = None) -> int:
    """Count the keys of an environment that are set aside now."""
    query = (
        select(func.count()).select_from(quarantine).where(quarantine.c.environment == environment, quarantine.c.open)
    )
    if stage is not None:
        query = query.where(quarantine.c.stage == stage)
    return int(connection.execute(query).scalar_one())


def release(connection: Connection, environment: int, *, stage: Stage | None = None) -> int:
    """Let the keys that are set aside (in one stage) be tried again. Returns how many there were."""
    own = (quarantine.c.environment == environment) & quarantine.c.open
    if stage is not None:
        own &= quarantine.c.stage == stage
    return connection.execute(update(quarantine).where(own).values(open=False)).rowcount
