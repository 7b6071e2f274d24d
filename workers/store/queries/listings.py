"""Lists for people: a page at a time, by an index, and never a key's row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, tuple_

from schemas.keys import TopState
from workers.store.audit import AuditRecord
from workers.store.environments import ENVIRONMENT, Environment, is_id
from workers.store.models import audit, environments, repacks, top_versions, wrapping_keys, wrapping_versions
from workers.store.repacks import Repack, list_repacks

SEARCHED = 20_000
"""Audit records that one search reads: the next one goes on where it stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An environment as a list shows it."""

    environment: Environment
    main_key: str
    generation: str | None
    repack: Repack | None  # its newest


def list_standings(
    connection: Connection,
    *,
    text: str = "",
    lock: str = "",
    after: tuple[str, str] | None = None,
    limit: int = 50,
) -> list[Standing]:
    """Read a page of environments by workspace and name. `lock`: none, any, or a cause; empty: all of them."""
    query = ENVIRONMENT.order_by(environments.c.workspace, environments.c.name).limit(limit)
    if text:
        query = query.where(_named(text))
    if lock:
        column = environments.c.lock_cause
        query = query.where({"none": column.is_(None), "any": column.is_not(None)}.get(lock, column == lock))
    if after is not None:
        query = query.where(tuple_(environments.c.workspace, environments.c.name) > after)
    found = [Environment(**row) for row in connection.execute(query).mappings()]
    ids = [environment.id for environment in found]
    tops, newest = _tops(connection, ids), _newest(connection, ids)
    return [
        Standing(
            environment=environment,
            main_key=tops[environment.id][0],
            generation=tops[environment.id][1],
            repack=newest.get(environment.id),
        )
        for environment in found
    ]


def _named(text: str) -> Any:
    """Part of `workspace/name`, or an id."""
    if is_id(text):
        return environments.c.environment_id == UUID(text)
    return (environments.c.workspace + "/" + environments.c.name).icontains(text, autoescape=True)


def _tops(connection: Connection, ids: list[int]) -> dict[int, tuple[str, str | None]]:
    columns = top_versions.c
    query = select(columns.environment, columns.main_key, columns.generation).where(
        columns.environment.in_(ids), columns.state == TopState.ACTIVE
    )
    return {row.environment: (row.main_key, row.generation) for row in connection.execute(query)}


def _newest(connection: Connection, ids: list[int]) -> dict[int, Repack]:
    query = select(func.max(repacks.c.id)).where(repacks.c.environment.in_(ids)).group_by(repacks.c.environment)
    rows = list(connection.execute(query).scalars())
    return {repack.environment: repack for repack in list_repacks(connection, rows=rows, limit=len(rows) or 1)}


def count_versions(connection: Connection, environment: int) -> dict[int, dict[str, int]]:
    """Versions of an environment's wrapping keys, by level and state."""
    query = (
        select(wrapping_keys.c.level, wrapping_versions.c.state, func.count())
        .join_from(wrapping_keys, wrapping_versions)
        .where(wrapping_keys.c.environment == environment)
        .group_by(wrapping_keys.c.level, wrapping_versions.c.state)
    )
    found: dict[int, dict[str, int]] = {}
    for level, state, count in connection.execute(query):
        found.setdefault(int(level), {})[state] = int(count)
    return found


def names_of(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    """Environments' names by row."""
    query = select(environments.c.id, environments.c.workspace, environments.c.name).where(environments.c.id.in_(ids))
    return {row.id: f"{row.workspace}/{row.name}" for row in connection.execute(query)}


def names_of_ids(connection: Connection, ids: Collection[UUID]) -> dict[UUID, str]:
    """Environments' names by outer id."""
    columns = environments.c
    query = select(columns.environment_id, columns.workspace, columns.name).where(columns.environment_id.in_(ids))
    return {row.environment_id: f"{row.workspace}/{row.name}" for row in connection.execute(query)}


def search_audit(
    connection: Connection,
    *,
    before: int | None = None,
    action: str = "",
    actor: str = "",
    text: str = "",
    environment_id: UUID | None = None,
    limit: int = 50,
) -> tuple[list[AuditRecord], int | None]:
    """Audit records, the newest first, and from which one on to go on; None: there are no more.

    `action` and `text` are parts, `actor` a part of who did it. One search reads SEARCHED records at most.
    """
    columns = audit.c
    top = before if before is not None else int(connection.execute(select(func.max(columns.seq))).scalar_one() or 0) + 1
    query = select(audit).where(columns.seq < top).order_by(columns.seq.desc()).limit(limit)
    parts = ((columns.action, action), (columns.actor, actor), (columns.facts, text))
    conditions = [column.icontains(part, autoescape=True) for column, part in parts if part]
    lowest = 0
    if environment_id is not None:
        conditions.append(columns.environment_id == environment_id)
    elif conditions:
        lowest = max(top - SEARCHED, 0)
        query = query.where(columns.seq >= lowest)
    found = [AuditRecord(**row) for row in connection.execute(query.where(*conditions)).mappings()]
    if len(found) == limit:
        return found, found[-1].seq
    return found, lowest or None


def recent_moves(connection: Connection, *, rotations: bool, limit: int) -> list[tuple[float, float]]:
    """(begun, closed) of the newest moves that have closed: of rotations that were followed, or of replacements."""
    columns = repacks.c
    same = columns.source_key == columns.target_key
    query = (
        select(columns.created_at, columns.move_closed_at)
        .where(columns.move_closed_at.is_not(None), same if rotations else ~same)
        .order_by(columns.id.desc())
        .limit(limit)
    )
    return [(row.created_at, row.move_closed_at) for row in connection.execute(query)]
