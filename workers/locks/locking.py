"""Locks and unlocks environments: by the customer's word, and when their main key's KMS says no (R8).

A lock raises the environment's epoch, in one transaction with its audit record, its event and the parking of its
repack. Every process that holds plaintext drops it (see `epochs`); every batch that commits after it finds the lock and
leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.states import RUNNING, LockCause, RepackState
from workers.errors import Cause, NotFound
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store.audit import append_record
from workers.store.database import Connection, InTransaction, write_nothing
from workers.store.environments import (
    Environment,
    get_environment,
    lock_environment,
    set_lock,
    workspace_environments,
)
from workers.store.outbox import record_event
from workers.store.repacks import change_state, open_repack
from workers.store.types import read_clock
from workers.store.workspaces import forget_revocation, lock_workspace, note_revocation, revocation_reason

ENVIRONMENT_SIDE = "environment"
"""The side that a repack of a locked environment is blocked by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockChange:
    """What a transaction locked or unlocked: to be announced once it has committed.

    `environments` changed; `resumed` are rows of repacks that go on; `outcome` says what was meant, for the record.
    """

    environments: list[Environment]
    resumed: list[int] = field(default_factory=list)
    outcome: Mapping[str, Any] = field(default_factory=dict)


def revoke(
    services: Services,
    environments: list[Environment],
    *,
    actor: str,
    reason: str = "",
    in_transaction: InTransaction = write_nothing,
) -> list[Environment]:
    """Lock environments by the customer's word, all in one transaction. Return those that were not yet revoked."""

    def change(connection: Connection) -> LockChange:
        return revoke_in(connection, services, environments, actor=actor, reason=reason)

    return _in_one_transaction(services, change, in_transaction)


def revoke_workspace(
    services: Services, workspace: str, *, actor: str, reason: str = "", in_transaction: InTransaction = write_nothing
) -> list[Environment]:
    """Lock a workspace's environments in one transaction, and what is created in it until it is restored.

    Return those that were not yet revoked. Raises NotFound for one without any: nothing is done in silence.
    """

    def change(connection: Connection) -> LockChange:
        return revoke_workspace_in(connection, services, workspace, actor=actor, reason=reason)

    return _in_one_transaction(services, change, in_transaction)


def restore(
    services: Services,
    environments: list[Environment],
    *,
    actor: str,
    reason: str = "",
    in_transaction: InTransaction = write_nothing,
) -> list[Environment]:
    """Take a revocation back. Parked repacks go on by themselves. Return the environments that were unlocked."""

    def change(connection: Connection) -> LockChange:
        return restore_in(connection, services, environments, actor=actor, reason=reason)

    return _in_one_transaction(services, change, in_transaction)


def restore_workspace(
    services: Services, workspace: str, *, actor: str, reason: str = "", in_transaction: InTransaction = write_nothing
) -> list[Environment]:
    """Take a workspace's revocation back, for all of its environments. Raises NotFound for one without any."""

    def change(connection: Connection) -> LockChange:
        return restore_workspace_in(connection, services, workspace, actor=actor, reason=reason)

    return _in_one_transaction(services, change, in_transaction)


@again_after_conflict
def _in_one_transaction(
    services: Services, change: Callable[[Connection], LockChange], in_transaction: InTransaction
) -> list[Environment]:
    with services.database.write() as connection:
        changed = change(connection)
        in_transaction(connection)
    announce(services, changed)
    return changed.environments


def revoke_in(
    connection: Connection, services: Services, environments: list[Environment], *, actor: str, reason: str
) -> LockChange:
    """Lock environments by the customer's word, in a transaction of the caller's."""
    changed = []
    for environment in _in_order(environments):
        current = lock_environment(connection, environment.id)
        if current.lock_cause != LockCause.REVOKED:
            write_lock(connection, services, current, LockCause.REVOKED, actor=actor, detail=reason)
            changed.append(current)
    return LockChange(environments=changed, outcome=_names(environments))


def revoke_workspace_in(
    connection: Connection, services: Services, workspace: str, *, actor: str, reason: str
) -> LockChange:
    """Lock a workspace, in a transaction of the caller's. Raises NotFound for one without any environment."""
    found = _environments_of(connection, workspace)
    change = revoke_in(connection, services, found, actor=actor, reason=reason)
    if note_revocation(connection, workspace, reason):
        _record_workspace(connection, "workspace.revoked", workspace, actor, reason, change.environments)
    return replace(change, outcome={"workspace": workspace})


def restore_in(
    connection: Connection, _services: Services, environments: list[Environment], *, actor: str, reason: str
) -> LockChange:
    """Take a revocation back, in a transaction of the caller's."""
    changed, resumed = [], []
    for environment in _in_order(environments):
        current = lock_environment(connection, environment.id)
        if current.lock_cause == LockCause.REVOKED:
            resumed += write_unlock(connection, current, actor=actor, reason=reason)
            changed.append(current)
    return LockChange(environments=changed, resumed=resumed, outcome=_names(environments))


def restore_workspace_in(
    connection: Connection, services: Services, workspace: str, *, actor: str, reason: str
) -> LockChange:
    """Take a workspace's revocation back, in a transaction of the caller's. Raises NotFound."""
    found = _environments_of(connection, workspace)
    change = restore_in(connection, services, found, actor=actor, reason=reason)
    if forget_revocation(connection, workspace):
        _record_workspace(connection, "workspace.restored", workspace, actor, reason, change.environments)
    return replace(change, outcome={"workspace": workspace})


def _in_order(environments: Iterable[Environment]) -> list[Environment]:
    """Return environments in the order in which every transaction locks them: two of them never wait for each other."""
    return sorted(environments, key=lambda environment: environment.id)


def _names(environments: Iterable[Environment]) -> dict[str, list[str]]:
    return {"environments": [str(environment.environment_id) for environment in environments]}


def lock_newborn(connection: Connection, services: Services, environment: Environment, *, actor: str) -> Environment:
    """Lock an environment that was created in a revoked workspace, in the transaction that creates it (R8)."""
    reason = revocation_reason(connection, environment.workspace)
    if reason is None:
        return environment
    write_lock(connection, services, environment, LockCause.REVOKED, actor=actor, detail=reason)
    return get_environment(connection, environment.id)


def _environments_of(connection: Connection, workspace: str) -> list[Environment]:
    """List a workspace's environments; no other is created meanwhile. Raises NotFound if there are none."""
    lock_workspace(connection, workspace)
    found = workspace_environments(connection, workspace)
    if not found:
        raise NotFound("environment of workspace", workspace, "List them with `keyrepack environment list`.")
    return found


def write_lock(
    connection: Connection,
    services: Services,
    environment: Environment,
    lock: LockCause,
    *,
    actor: str,
    detail: str,
    kms_cause: Cause | None = None,
) -> None:
    """Lock an environment whose row this transaction holds: epoch, parked repack, audit record, event (R8, R11)."""
    epoch = set_lock(connection, environment.id, cause=lock, detail=detail)
    repack = open_repack(connection, environment.id)
    if repack is not None and repack.state in RUNNING:
        change_state(
            connection,
            repack,
            RepackState.BLOCKED,
            "repack.blocked",
            actor=actor,
            facts={"side": ENVIRONMENT_SIDE, "cause": lock.value},
            block_side=ENVIRONMENT_SIDE,
            block_cause=lock.value,
            block_detail=f"The environment is locked: {lock.value}. {detail}".strip(),
            blocked_at=read_clock(connection),
            probe_at=None,
        )
    refused = kms_cause.value if kms_cause else None
    facts = {"cause": lock.value, "kms_cause": refused, "detail": detail, "epoch": epoch}
    _record(
        connection, "environment.lost" if lock == LockCause.LOST else "environment.locked", environment, actor, facts
    )
    reach(Point.LOCK_WRITTEN)
    log.warning("environment.locked", environment=str(environment.environment_id), cause=lock.value)


def write_unlock(connection: Connection, environment: Environment, *, actor: str, reason: str) -> list[int]:
    """Unlock an environment; return the repack that goes on, to wake."""
    epoch = set_lock(connection, environment.id, cause=None, detail=None)
    repack = open_repack(connection, environment.id)
    is_parked = repack is not None and repack.state == RepackState.BLOCKED and repack.block_side == ENVIRONMENT_SIDE
    if repack is not None and is_parked:
        change_state(
            connection, repack, repack.stage_state, "repack.resumed", actor=actor, facts={"was": repack.block_cause}
        )
    facts = {"was": environment.lock_cause, "reason": reason, "epoch": epoch}
    _record(connection, "environment.unlocked", environment, actor, facts)
    log.info("environment.unlocked", environment=str(environment.environment_id), was=environment.lock_cause)
    return [repack.id] if repack is not None and is_parked else []


def _record(
    connection: Connection, action: str, environment: Environment, actor: str, facts: Mapping[str, object]
) -> None:
    record_event(connection, action, actor=actor, environment_id=environment.environment_id, facts=facts)


def _record_workspace(
    connection: Connection, action: str, workspace: str, actor: str, reason: str, changed: list[Environment]
) -> None:
    """Write an audit record of the workspace; the events are its environments' (R11)."""
    names = [str(environment.environment_id) for environment in changed]
    facts = {"workspace": workspace, "reason": reason, "environments": names}
    append_record(connection, action=action, actor=actor, facts=facts)


def announce(services: Services, change: LockChange) -> None:
    """Tell every process, after the commit: plaintext is dropped, repacks go on, waiting events are published.

    The other processes first: this one asks the database before it serves a key, and they hear of it by this alone.
    """
    reach(Point.LOCK_COMMITTED)
    if change.environments:
        services.epochs.announce([environment.environment_id for environment in change.environments])
        for repack in change.resumed:
            services.wake.repack(repack)
        services.wake.outbox()
