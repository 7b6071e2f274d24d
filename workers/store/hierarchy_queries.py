"""Questions about an environment's tree as a whole: is it legal, how many keys has it, where may it be cut."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import Connection, and_, func, or_, select

from schemas.hierarchy import Node, PlacementFault, find_fault
from schemas.keys import MAX_LEVELS, VersionState
from workers.errors import HierarchyBroken
from workers.store.keys import MANY
from workers.store.models import data_keys, wrapping_keys, wrapping_versions

NAMED = 100
"""How many broken keys an error names at most."""


def check_tree(connection: Connection, environment: int, *, with_data: bool) -> None:
    """Raise HierarchyBroken, naming the keys, where the environment's keys are not a legal tree."""
    suspects = _suspects(connection, environment)
    if suspects:
        nodes = _with_ancestors(connection, suspects)
        faults: dict[PlacementFault, list[Node]] = {}
        for node in suspects:
            faults.setdefault(find_fault(node, nodes) or PlacementFault.MISPLACED, []).append(node)
        worst = PlacementFault.CYCLE if PlacementFault.CYCLE in faults else next(iter(faults))
        raise HierarchyBroken(fault=worst.value, keys=[node.key_id for node in faults[worst]])
    orphans = _orphan_data(connection, environment) if with_data else []
    if orphans:
        raise HierarchyBroken(fault=PlacementFault.ORPHAN.value, keys=orphans)


def _suspects(connection: Connection, environment: int) -> list[Node]:
    """Select wrapping keys that break the local rule; see `schemas.hierarchy`."""
    parents, columns = wrapping_keys.alias("parents"), wrapping_keys.c
    misplaced = or_(
        parents.c.id.is_(None), parents.c.environment != columns.environment, parents.c.level != columns.level - 1
    )
    query = (
        select(columns.id, columns.key_id, columns.environment, columns.parent, columns.level)
        .outerjoin(parents, parents.c.id == columns.parent)
        .where(
            columns.environment == environment,
            or_(
                and_(columns.parent.is_(None), columns.level != 1),
                and_(columns.parent.is_not(None), misplaced),
                columns.level > MAX_LEVELS,
            ),
        )
        .order_by(columns.id)
        .limit(NAMED)
    )
    return [Node(**row) for row in connection.execute(query).mappings()]


def _with_ancestors(connection: Connection, suspects: list[Node]) -> dict[int, Node]:
    columns = wrapping_keys.c
    nodes = {node.id: node for node in suspects}
    wanted = {node.parent for node in suspects if node.parent is not None} - nodes.keys()
    while wanted:
        query = select(columns.id, columns.key_id, columns.environment, columns.parent, columns.level)
        found = [
            Node(**row) for row in connection.execute(query.where(columns.id.in_(sorted(wanted)[:MANY]))).mappings()
        ]
        nodes |= {node.id: node for node in found}
        wanted = {node.parent for node in found if node.parent is not None} - nodes.keys()
    return nodes


def _orphan_data(connection: Connection, environment: int) -> list[UUID]:
    parents, columns = wrapping_keys.alias("parents"), data_keys.c
    groups = (
        select(columns.parent, columns.level)
        .where(columns.environment == environment, columns.parent.is_not(None))
        .group_by(columns.parent, columns.level)
        .subquery()
    )
    broken = (
        select(groups.c.parent, groups.c.level)
        .outerjoin(parents, parents.c.id == groups.c.parent)
        .where(or_(parents.c.id.is_(None), parents.c.environment != environment, parents.c.level != groups.c.level - 1))
        .limit(NAMED)
        .subquery()
    )
    query = select(columns.key_id).where(
        columns.environment == environment, columns.parent == broken.c.parent, columns.level == broken.c.level
    )
    return list(connection.execute(query.limit(NAMED)).scalars())


def deepest_level(connection: Connection, environment: int) -> int:
    """Return the deepest level of wrapping keys; 0 without any."""
    query = select(func.max(wrapping_keys.c.level)).where(wrapping_keys.c.environment == environment)
    return int(connection.execute(query).scalar_one() or 0)


def wrapping_key_rows(connection: Connection, environment: int, level: int) -> Iterator[int]:
    """Stream the wrapping keys of a level, in order."""
    columns = wrapping_keys.c
    query = select(columns.id).where(columns.environment == environment, columns.level == level).order_by(columns.id)
    yield from connection.execute(query.execution_options(yield_per=1000)).scalars()


def child_counts(connection: Connection, environment: int, level: int) -> Iterator[tuple[int, int]]:
    """Stream each wrapping key of a level with the number of data keys below it, in order."""
    children = (
        select(data_keys.c.parent, func.count().label("count"))
        .where(data_keys.c.environment == environment, data_keys.c.level == level + 1, data_keys.c.parent.is_not(None))
        .group_by(data_keys.c.parent)
        .subquery()
    )
    query = (
        select(wrapping_keys.c.id, func.coalesce(children.c.count, 0))
        .outerjoin(children, children.c.parent == wrapping_keys.c.id)
        .where(wrapping_keys.c.environment == environment, wrapping_keys.c.level == level)
        .order_by(wrapping_keys.c.id)
        .execution_options(yield_per=1000)
    )
    for parent, count in connection.execute(query):
        yield int(parent), int(count)


def split_parent(connection: Connection, environment: int, level: int, parent: int, step: int) -> Iterator[int]:
    """Yield every `step`-th data key below a wrapping key of `level`, in order, and the last one."""
    columns = data_keys.c
    after = 0
    while True:
        query = (
            select(columns.id)
            .where(
                columns.environment == environment,
                columns.level == level + 1,
                columns.parent == parent,
                columns.id > after,
            )
            .order_by(columns.id)
        )
        found = connection.execute(query.offset(step - 1).limit(1)).scalar_one_or_none()
        if found is None:
            last = connection.execute(query.with_only_columns(func.max(columns.id)).order_by(None)).scalar_one()
            if last is not None:
                yield int(last)
            return
        yield (after := int(found))


def count_draining(connection: Connection, environment: int) -> int:
    """Versions of an environment's wrapping keys that are not yet shredded, nor active."""
    query = (
        select(func.count())
        .select_from(wrapping_versions)
        .join(wrapping_keys, wrapping_keys.c.id == wrapping_versions.c.wrapping_key)
        .where(wrapping_keys.c.environment == environment, wrapping_versions.c.state == VersionState.DRAINING)
    )
    return int(connection.execute(query).scalar_one())


def count_stale(connection: Connection, environment: int) -> int:
    """Count the data keys that are wrapped under a version of their wrapping key which is not the active one."""
    active = wrapping_versions.alias("active")
    query = (
        select(func.count())
        .select_from(data_keys)
        .join(active, and_(active.c.wrapping_key == data_keys.c.parent, active.c.state == VersionState.ACTIVE))
        .where(data_keys.c.environment == environment, data_keys.c.parent_version != active.c.version)
    )
    return int(connection.execute(query).scalar_one())
