"""Locks and unlocks environments: by the customer's word, and when their main key's KMS says no (R8).

A lock raises the environment's epoch, in one transaction with its audit record, its event and the parking of its
repack. Whoever holds plaintext drops it (see `epochs`); every batch that commits after it finds the lock and leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

from schemas.states import RUNNING, LockCause, RepackState
from workers.errors import Cause, KmsRefused, KmsUnreachable, NotFound, WrapRefused
from workers.kms.port import encryption_context
from workers.kms.rate_limit.budget import live
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store.audit import append_record
from workers.store.database import Connection
from workers.store.environments import (
    Environment,
    TopVersion,
    get_environment,
    live_tops,
    lock_environment,
    set_lock,
    workspace_environments,
)
from workers.store.outbox import tell
from workers.store.repacks import change_state, open_repack
from workers.store.roots import sample_wrap
from workers.store.types import read_clock
from workers.store.workspaces import forget_revocation, lock_workspace, note_revocation, revocation_reason

Settle = Callable[[Connection], None]


ENVIRONMENT_SIDE = "environment"
"""The side that a repack of a locked environment is blocked by."""


def _settle_nothing(_connection: Connection) -> None:
    """Nothing else is to be written."""


@again_after_conflict
def revoke(
    services: Services,
    environments: list[Environment],
    *,
    actor: str,
    reason: str = "",
    settle: Settle = _settle_nothing,
) -> list[Environment]:
    """Lock environments by the customer's word, all in one transaction. Returns those that were not yet revoked."""
    with services.database.write() as connection:
        changed = _revoke(connection, services, environments, actor=actor, reason=reason)
        settle(connection)
    _announce(services, changed)
    return changed


@again_after_conflict
def revoke_workspace(
    services: Services, workspace: str, *, actor: str, reason: str = "", settle: Settle = _settle_nothing
) -> list[Environment]:
    """Lock a workspace's environments in one transaction, and what is created in it until it is restored.

    Returns those that were not yet revoked. Raises NotFound for one without any: nothing is done in silence.
    """
    with services.database.write() as connection:
        found = _environments_of(connection, workspace)
        changed = _revoke(connection, services, found, actor=actor, reason=reason)
        if note_revocation(connection, workspace, reason):
            _tell_of_workspace(connection, "workspace.revoked", workspace, actor, reason, changed)
        settle(connection)
    _announce(services, changed)
    return changed


@again_after_conflict
def restore(
    services: Services,
    environments: list[Environment],
    *,
    actor: str,
    reason: str = "",
    settle: Settle = _settle_nothing,
) -> list[Environment]:
    """Take a revocation back. Parked repacks go on by themselves. Returns the environments that were unlocked."""
    with services.database.write() as connection:
        changed, resumed = _restore(connection, environments, actor=actor, reason=reason)
        settle(connection)
    _announce(services, changed, resumed)
    return changed


@again_after_conflict
def restore_workspace(
    services: Services, workspace: str, *, actor: str, reason: str = "", settle: Settle = _settle_nothing
) -> list[Environment]:
    """Take a workspace's revocation back, for all of its environments. Raises NotFound for one without any."""
    with services.database.write() as connection:
        found = _environments_of(connection, workspace)
        changed, resumed = _restore(connection, found, actor=actor, reason=reason)
        if forget_revocation(connection, workspace):
            _tell_of_workspace(connection, "workspace.restored", workspace, actor, reason, changed)
        settle(connection)
    _announce(services, changed, resumed)
    return changed


def lock_newborn(connection: Connection, services: Services, environment: Environment, *, actor: str) -> Environment:
    """Lock an environment that was created in a revoked workspace, in the transaction that creates it (R8)."""
    reason = revocation_reason(connection, environment.workspace)
    if reason is None:
        return environment
    _lock(connection, services, environment, LockCause.REVOKED, actor=actor, detail=reason)
    return get_environment(connection, environment.id)


@again_after_conflict
def restrict(services: Services, environment: Environment, *, cause: Cause, detail: str, actor: str = "") -> bool:
    """Lock an environment whose KMS refuses, after a second look. Returns whether it was locked now.

    Every live main key has to refuse: while a move is open the other one still opens what is stored (R1), and a KMS
    that gives no answer is unreachable, never a lock.
    """
    found = _second_look(services, environment)
    if not found:
        return False
    is_lost = all(refused == Cause.DELETED for refused in found)
    lock = LockCause.LOST if is_lost else LockCause.RESTRICTED
    with services.database.write() as connection:
        current = lock_environment(connection, environment.id)
        if current.lock_cause in (LockCause.REVOKED, lock) or len(live_tops(connection, environment.id)) != len(found):
            return False
        words = f"{found[0].value}: {detail}" if detail else found[0].value
        _lock(connection, services, current, lock, actor=actor or services.owner, detail=words, kms_cause=found[0])
    _announce(services, [current])
    return True


@again_after_conflict
def unlock_if_restricted(services: Services, environment: Environment, *, actor: str = "") -> bool:
    """Unlock an environment whose KMS opens its roots again. A revocation by the customer's word stands."""
    with services.database.read() as connection:
        locked = get_environment(connection, environment.id).lock_cause in (LockCause.RESTRICTED, LockCause.LOST)
    if not locked or _second_look(services, environment) is not None:
        return False
    with services.database.write() as connection:
        current = lock_environment(connection, environment.id)
        if current.lock_cause not in (LockCause.RESTRICTED, LockCause.LOST):
            return False
        resumed = _unlock(connection, current, actor=actor or services.owner, reason="the KMS answers again")
    _announce(services, [current], resumed)
    return True


def suspect(services: Services, environment: Environment, error: KmsRefused) -> None:
    """A main key refused while it was used: look, and lock if that is how it is."""
    restrict(services, environment, cause=error.cause, detail=error.why)


def _second_look(services: Services, environment: Environment) -> list[Cause] | None:
    """Why every live main key refuses, the active one's reason first; None as soon as one of them opens a root.

    Empty where one gives no answer: nothing follows from that, neither a lock nor an unlock.
    """
    with services.database.read() as connection:
        tops = live_tops(connection, environment.id)
        samples = {top.version: sample_wrap(connection, environment.id, top.version) for top in tops}
    found: list[Cause] = []
    for top in tops:
        with live():  # R8: a lock waits for no repack's calls
            cause = services.loop.run(why_refused(services, environment, top, samples[top.version]))
        if cause in (Cause.UNREACHABLE, Cause.THROTTLED, Cause.UNSUPPORTED):
            return []
        if cause is None:
            return None
        found.append(cause)
    return found


async def why_refused(
    services: Services, environment: Environment, top: TopVersion, sample: tuple[UUID, bytes] | None
) -> Cause | None:
    """Describe a main key and open a root with it: its owner may have left the one allowed and withdrawn the other."""
    main_key = services.kms.main_key(top.main_key)
    try:
        await main_key.describe()
        if sample is not None:
            await main_key.unwrap(sample[1], encryption_context(environment.environment_id, sample[0]))
    except (KmsRefused, KmsUnreachable) as error:
        return error.cause
    except WrapRefused:
        return None  # the key answers; it is the sample that is broken
    return None


def _environments_of(connection: Connection, workspace: str) -> list[Environment]:
    """A workspace's environments, no other is created meanwhile. Raises NotFound where there are none."""
    lock_workspace(connection, workspace)
    found = workspace_environments(connection, workspace)
    if not found:
        raise NotFound("environment of workspace", workspace, "List them with `keyrepack environment list`.")
    return found


def _revoke(
    connection: Connection, services: Services, environments: list[Environment], *, actor: str, reason: str
) -> list[Environment]:
    changed = []
    for environment in sorted(environments, key=lambda environment: environment.id):
        current = lock_environment(connection, environment.id)
        if current.lock_cause != LockCause.REVOKED:
            _lock(connection, services, current, LockCause.REVOKED, actor=actor, detail=reason)
            changed.append(current)
    return changed


def _restore(
    connection: Connection, environments: list[Environment], *, actor: str, reason: str
) -> tuple[list[Environment], list[int]]:
    """What was unlocked, and the repacks to wake for it once that is committed."""
    changed, resumed = [], []
    for environment in sorted(environments, key=lambda environment: environment.id):
        current = lock_environment(connection, environment.id)
        if current.lock_cause == LockCause.REVOKED:
            resumed += _unlock(connection, current, actor=actor, reason=reason)
            changed.append(current)
    return changed, resumed


def _lock(
    connection: Connection,
    services: Services,
    environment: Environment,
    lock: LockCause,
    *,
    actor: str,
    detail: str,
    kms_cause: Cause | None = None,
) -> None:
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
    _tell(connection, "environment.lost" if lock == LockCause.LOST else "environment.locked", environment, actor, facts)
    reach(Point.LOCK_WRITTEN)
    log.warning("environment.locked", environment=str(environment.environment_id), cause=lock.value)


def _unlock(connection: Connection, environment: Environment, *, actor: str, reason: str) -> list[int]:
    """Returns the repack that goes on, to wake."""
    epoch = set_lock(connection, environment.id, cause=None, detail=None)
    repack = open_repack(connection, environment.id)
    is_parked = repack is not None and repack.state == RepackState.BLOCKED and repack.block_side == ENVIRONMENT_SIDE
    if repack is not None and is_parked:
        change_state(
            connection, repack, repack.stage_state, "repack.resumed", actor=actor, facts={"was": repack.block_cause}
        )
    facts = {"was": environment.lock_cause, "reason": reason, "epoch": epoch}
    _tell(connection, "environment.unlocked", environment, actor, facts)
    log.info("environment.unlocked", environment=str(environment.environment_id), was=environment.lock_cause)
    return [repack.id] if repack is not None and is_parked else []


def _tell(
    connection: Connection, action: str, environment: Environment, actor: str, facts: Mapping[str, object]
) -> None:
    tell(connection, action, actor=actor, environment_id=environment.environment_id, facts=facts)


def _tell_of_workspace(
    connection: Connection, action: str, workspace: str, actor: str, reason: str, changed: list[Environment]
) -> None:
    """An audit record of its own; the events are its environments' (R11)."""
    names = [str(environment.environment_id) for environment in changed]
    facts = {"workspace": workspace, "reason": reason, "environments": names}
    append_record(connection, action=action, actor=actor, facts=facts)


def _announce(services: Services, environments: list[Environment], resumed: Iterable[int] = ()) -> None:
    """After the commit: every process drops its plaintext, repacks go on, and whoever waits for events hears of it."""
    reach(Point.LOCK_COMMITTED)
    if environments:
        services.epochs.announce([environment.environment_id for environment in environments])
        for repack in resumed:
            services.wake.repack(repack)
        services.wake.outbox()
