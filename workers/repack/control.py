"""Controls a repack by an operator's word: pause, resume, abort, stop, retry."""

from __future__ import annotations

from collections.abc import Callable

from schemas.errors import IllegalMove
from schemas.keys import TopState
from schemas.states import RepackState, Stage
from workers.errors import (
    EnvironmentLocked,
    RepackConflict,
)
from workers.runtime.failpoints import Point, reach
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import shards
from workers.store.database import Connection
from workers.store.environments import (
    drop_root_wraps,
    get_environment,
    lock_environment,
    set_top_state,
)
from workers.store.quarantine import release
from workers.store.repacks import Repack, change_state, get_repack, latest_repack
from workers.store.roots import restore_parent_versions


def pause(services: Services, repack: Repack, *, actor: str, reason: str = "") -> Repack:
    """Stop work within a batch; `resume` goes on where it was. Raises IllegalMove."""
    facts = {"reason": reason}
    return change_under_lock(
        services,
        repack,
        lambda connection, current: change_state(
            connection, current, RepackState.PAUSED, "repack.paused", actor=actor, facts=facts
        ),
    )


def resume(services: Services, repack: Repack, *, actor: str, reason: str = "") -> Repack:
    """Go on from the checkpoints of a paused or blocked repack. Raises IllegalMove."""
    facts = {"reason": reason}

    def write(connection: Connection, current: Repack) -> Repack:
        if current.is_running:
            return current
        if not current.is_open:  # back to its stage leads a retry as well, from its end: that is another act
            raise IllegalMove(
                action="resumed", state=current.state.value, allowed=["retried"] if _is_held(current) else []
            )
        environment = get_environment(connection, current.environment)
        if environment.lock_cause is not None:
            raise EnvironmentLocked(environment=environment.environment_id, cause=environment.lock_cause)
        return change_state(
            connection, current, current.stage_state, "repack.resumed", actor=actor, facts=facts, probes=0
        )

    return change_under_lock(services, repack, write)


def abort(services: Services, repack: Repack, *, actor: str, reason: str = "") -> Repack:
    """Put the old main key in force again, exactly; needs no KMS, so it works with the new key gone (R1).

    Legal until the move has closed. Raises IllegalMove.
    """

    def write(connection: Connection, current: Repack) -> Repack:
        if current.state == RepackState.ABORTED:
            return current
        newest = latest_repack(connection, current.environment)
        if current.move_closed_at is not None or newest is None or newest.id != current.id:
            raise IllegalMove(
                action="aborted", state=f"{current.state.value}, and its move has closed", allowed=["stopped"]
            )
        shards.close_shards(connection, current.id)
        restore_parent_versions(connection, current.environment, top_version=current.to_top, former=current.from_top)
        drop_root_wraps(connection, current.environment, [current.to_top])
        set_top_state(connection, current.environment, current.to_top, TopState.WITHDRAWN)
        set_top_state(connection, current.environment, current.from_top, TopState.ACTIVE)
        release(connection, current.environment)
        changed = change_state(
            connection,
            current,
            RepackState.ABORTED,
            "repack.aborted",
            actor=actor,
            facts={"reason": reason, "in_force": current.source_key},
        )
        reach(Point.ABORT_WRITTEN)
        return changed

    return change_under_lock(services, repack, write)


def stop(services: Services, repack: Repack, *, actor: str, reason: str = "") -> Repack:
    """End a renewal where it stands: children of two versions are legal, the next deep repack picks them up.

    Raises IllegalMove for a repack that is still moving: abort that.
    """

    def write(connection: Connection, current: Repack) -> Repack:
        if current.state == RepackState.STOPPED:
            return current
        if current.stage == Stage.MOVE:
            raise IllegalMove(action="stopped", state=f"{current.state.value}, in its move", allowed=["aborted"])
        shards.close_shards(connection, current.id)
        changed = change_state(
            connection, current, RepackState.STOPPED, "repack.stopped", actor=actor, facts={"reason": reason}
        )
        reach(Point.STOP_WRITTEN)
        return changed

    return change_under_lock(services, repack, write)


def retry(services: Services, repack: Repack, *, actor: str, reason: str = "") -> Repack:
    """Try the quarantined keys again, once their rows or main key were repaired. Raises IllegalMove, RepackConflict.

    The stages are planned anew and walked: what is current is counted, nothing is rewrapped twice (R2).
    """

    def write(connection: Connection, current: Repack) -> Repack:
        newest = latest_repack(connection, current.environment)
        if newest is not None and newest.id != current.id:
            raise RepackConflict(
                environment=current.environment_id, repack=newest.repack_id, state=f"newer, and {newest.state.value}"
            )
        if current.state != RepackState.FINISHED_WITH_QUARANTINE:
            raise IllegalMove(action="retried", state=current.state.value, allowed=["retried once it has ended"])
        keys = release(connection, current.environment)
        stage = Stage.MOVE if current.move_closed_at is None else Stage.RENEW
        state = RepackState.MOVING if stage == Stage.MOVE else RepackState.RENEWING
        return change_state(
            connection,
            current,
            state,
            "repack.retried",
            actor=actor,
            stage=stage,
            level=0,
            facts={"reason": reason, "keys": keys},
        )

    return change_under_lock(services, repack, write)


def _is_held(repack: Repack) -> bool:
    return repack.state == RepackState.FINISHED_WITH_QUARANTINE


@again_after_conflict
def change_under_lock(services: Services, repack: Repack, write: Callable[[Connection, Repack], Repack]) -> Repack:
    """Change a repack under the locks of its environment and itself, then wake workers and the outbox relay."""
    with services.database.write() as connection:
        lock_environment(connection, repack.environment)
        changed = write(connection, get_repack(connection, repack.id))
    reach(Point.STEER_COMMITTED)
    if changed.is_running:
        services.wake.repack(changed.id)
    services.wake.outbox()
    return changed
