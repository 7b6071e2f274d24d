"""Environments and the versions of their top: which main key, at which generation, is in force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, Integer, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from schemas.keys import TopState
from workers.errors import AlreadyThere, NotFound
from workers.store.models import data_keys, environments, root_wraps, top_versions, wrapping_keys
from workers.store.types import db_now
from workers.store.workspaces import share_workspace

_LOCKS = 0x6B70
"""The class of our advisory locks ("kp"). The object is the environment's row in 31 bits: sharing one is harmless."""

_SHARE = select(func.pg_advisory_xact_lock_shared(_LOCKS, bindparam("environment", type_=Integer)))

LIVE = (TopState.ACTIVE, TopState.DRAINING)
"""Top versions under which every root has, or is getting, a wrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One scope of a workspace. `id` inside, `environment_id` outside."""

    id: int
    environment_id: UUID
    workspace: str
    name: str
    epoch: int
    lock_cause: str | None
    lock_detail: str | None
    locked_at: float | None
    created_at: float

    def __str__(self) -> str:
        return f"{self.workspace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopVersion:
    """A main key at one generation, as an environment's top."""

    version: int
    main_key: str
    generation: str | None
    state: TopState


def create_environment(
    connection: Connection, *, workspace: str, name: str, main_key: str, generation: str | None
) -> Environment:
    """Create an environment whose first top version is `main_key`. Raises AlreadyThere."""
    share_workspace(connection, workspace)  # R8: a revocation of the workspace sees it, or is seen by it
    values = {"environment_id": uuid4(), "workspace": workspace, "name": name, "created_at": db_now()}
    try:
        with connection.begin_nested():
            key = connection.execute(insert(environments).values(values).returning(environments.c.id)).scalar_one()
    except IntegrityError as error:
        raise AlreadyThere("environment", f"{workspace}/{name}") from error
    insert_top(connection, key, version=1, main_key=main_key, generation=generation)
    return get_environment(connection, key)


def find_environment(connection: Connection, reference: str | UUID) -> Environment:
    """Find an environment by id, or by `workspace/name`. Raises NotFound."""
    workspace, slash, name = str(reference).partition("/")
    condition: ColumnElement[bool]
    if slash:
        condition = (environments.c.workspace == workspace) & (environments.c.name == name)
    else:
        try:
            condition = environments.c.environment_id == UUID(str(reference))
        except ValueError as error:
            raise NotFound("environment", reference, "Name it by its id or as workspace/name.") from error
    row = connection.execute(ENVIRONMENT.where(condition)).mappings().first()
    if row is None:
        raise NotFound("environment", reference, "List them with `keyrepack environment list`.")
    return Environment(**row)


def get_environment(connection: Connection, key: int) -> Environment:
    """Read an environment by its row."""
    return Environment(**connection.execute(ENVIRONMENT.where(environments.c.id == key)).mappings().one())


def lock_environment(connection: Connection, key: int) -> Environment:
    """Lock an environment for this transaction alone: every transaction that shared it has committed, and no other gets
    in.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCKS, key & 0x7FFFFFFF)))
    return get_environment(connection, key)


def share_environment(connection: Connection, key: int) -> None:
    """Share an environment with other transactions: its state, its tops and its repack stay as they are until the
    commit.

    An advisory lock and not FOR SHARE: a row's sharers keep letting each other in, and a transaction that wants to lock
    it may wait for ever behind many workers; this queue is fair. SQLite's one writer is alone anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_SHARE, {"environment": key & 0x7FFFFFFF})


def read_epochs(connection: Connection, ids: list[UUID]) -> list[tuple[UUID, int, str | None, float | None]]:
    """(outer id, epoch, lock cause, seconds since the lock) of these environments."""
    columns = environments.c
    age = (db_now() - columns.locked_at).label("age")
    query = select(columns.environment_id, columns.epoch, columns.lock_cause, age).where(
        columns.environment_id.in_(ids)
    )
    return [(row.environment_id, row.epoch, row.lock_cause, row.age) for row in connection.execute(query)]


def set_lock(connection: Connection, key: int, *, cause: str | None, detail: str | None) -> int:
    """Lock an environment with a cause, or unlock it with None; hold its lock first. Returns its new epoch (R8)."""
    columns = environments.c
    locked_at = None if cause is None else db_now()
    statement = (
        update(environments)
        .where(columns.id == key)
        .values(lock_cause=cause, lock_detail=detail, locked_at=locked_at, epoch=columns.epoch + 1)
        .returning(columns.epoch)
    )
    return int(connection.execute(statement).scalar_one())


def raise_epoch(connection: Connection, key: int) -> None:
    """Make every process drop the environment's plaintext (R8); hold its lock first."""
    columns = environments.c
    connection.execute(update(environments).where(columns.id == key).values(epoch=columns.epoch + 1))


def workspace_environments(connection: Connection, workspace: str) -> list[Environment]:
    """List the environments of a workspace."""
    query = ENVIRONMENT.where(environments.c.workspace == workspace).order_by(environments.c.id)
    return [Environment(**row) for row in connection.execute(query).mappings()]


def environments_of(connection: Connection, scope: str) -> list[Environment]:
    """Find one environment by its id or workspace/name, else a workspace's environments. Raises NotFound if there are
    none.
    """
    if "/" in scope or is_id(scope):
        return [find_environment(connection, scope)]
    found = workspace_environments(connection, scope)
    if not found:
        raise NotFound("environment of workspace", scope, "List them with `keyrepack environment list`.")
    return found


def is_id(text: str) -> bool:
    """Return True if the text is written as an outer id."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def list_environments(connection: Connection) -> list[Environment]:
    """List all environments, by workspace and name."""
    query = ENVIRONMENT.order_by(environments.c.workspace, environments.c.name)
    return [Environment(**row) for row in connection.execute(query).mappings()]


def insert_top(
    connection: Connection, environment: int, *, version: int, main_key: str, generation: str | None
) -> TopVersion:
    """Insert a new top version, active from now on."""
    values = {"main_key": main_key, "generation": generation, "state": TopState.ACTIVE, "version": version}
    connection.execute(insert(top_versions).values(environment=environment, created_at=db_now(), **values))
    return TopVersion(version=version, main_key=main_key, generation=generation, state=TopState.ACTIVE)


def live_tops(connection: Connection, environment: int, *, share: bool = False) -> list[TopVersion]:
    """Return the active top version first, then the draining ones, newest first.

    `share` keeps them as they are until the transaction ends (creators of roots use it).
    """
    if share:
        share_environment(connection, environment)
    columns = top_versions.c
    query = select(columns.version, columns.main_key, columns.generation, columns.state).where(
        columns.environment == environment, columns.state.in_(LIVE)
    )
    tops = [TopVersion(**dict(row) | {"state": TopState(row["state"])}) for row in connection.execute(query).mappings()]
    return sorted(tops, key=lambda top: (top.state != TopState.ACTIVE, -top.version))


def all_tops(connection: Connection, environment: int) -> list[dict[str, Any]]:
    """List every top version that the environment ever had, oldest first."""
    query = select(top_versions).where(top_versions.c.environment == environment).order_by(top_versions.c.version)
    return [dict(row) for row in connection.execute(query).mappings()]


def last_top_version(connection: Connection, environment: int) -> int:
    """Return the highest version number ever given."""
    query = select(func.max(top_versions.c.version)).where(top_versions.c.environment == environment)
    return int(connection.execute(query).scalar_one())


def set_top_state(connection: Connection, environment: int, version: int, state: TopState) -> None:
    """Move one top version to another state."""
    ended = None if state in LIVE else db_now()
    condition = (top_versions.c.environment == environment) & (top_versions.c.version == version)
    connection.execute(update(top_versions).where(condition).values(state=state, ended_at=ended))


def drop_root_wraps(connection: Connection, environment: int, versions: list[int]) -> int:
    """Delete every root's wraps under these top versions. Returns how many there were."""
    condition = (root_wraps.c.environment == environment) & root_wraps.c.top_version.in_(versions)
    return connection.execute(delete(root_wraps).where(condition)).rowcount


def count_keys(connection: Connection, environment: int) -> dict[str, dict[int, int]]:
    """Count keys by kind and level: {"wrapping": {1: 24}, "data": {1: 3, 2: 1000}}."""
    counts: dict[str, dict[int, int]] = {}
    for name, table in (("wrapping", wrapping_keys), ("data", data_keys)):
        query = select(table.c.level, func.count()).where(table.c.environment == environment).group_by(table.c.level)
        counts[name] = {int(level): int(count) for level, count in sorted(connection.execute(query))}
    return counts


_COLUMNS = (
    "id",
    "environment_id",
    "workspace",
    "name",
    "epoch",
    "lock_cause",
    "lock_detail",
    "locked_at",
    "created_at",
)
ENVIRONMENT = select(*(environments.c[name] for name in _COLUMNS))
