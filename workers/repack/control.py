"""What may happen to a repack from outside: pause, resume, abort, stop, retry.

And what holds it up: a main key that is away, a database that is full. Then it is blocked, and looks again by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.errors import IllegalMove
from schemas.keys import MainKeyUri, TopState
from schemas.states import RepackState, Stage
from workers.errors import (
    DatabaseFailed,
    DatabaseFull,
    EnvironmentLocked,
    KmsRefused,
    KmsUnreachable,
    RepackConflict,
)
from workers.repack.probe import probe_replacement
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import shards
from workers.store.database import Connection
from workers.store.disk_space import require_room
from workers.store.environments import (
    TopVersion,
    drop_root_wraps,
    get_environment,
    lock_environment,
    set_top_state,
)
from workers.store.quarantine import release
from workers.store.repacks import Repack, change_state, get_repack, latest_repack, set_columns
from workers.store.roots import restore_parent_versions
from workers.store.types import read_clock

SOURCE, TARGET = "source", "target"
"""Which main key holds a repack up: the one it leaves, or the one it goes to."""

DATABASE_SIDE = "database"
"""The side that a repack is blocked by where neither main key is at fault."""


def pause(services: Services, repack: Repack, *, actor: str, reason: str = "") -> Repack:
    """Stop work within a batch; `resume` goes on where it was. Raises IllegalMove."""
    facts = {"reason": reason}
    return _steer(
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

    return _steer(services, repack, write)


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

    return _steer(services, repack, write)


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

    return _steer(services, repack, write)


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

    return _steer(services, repack, write)


def block(services: Services, repack: Repack, error: KmsRefused | KmsUnreachable) -> Repack:
    """Park a repack whose main key is away, with a typed reason; it looks again by itself."""
    side = _side(repack, error.main_key)
    return _park(services, repack, side, error.cause.value, str(error), main_key=error.main_key)


def _side(repack: Repack, main_key: str) -> str:
    return SOURCE if main_key == repack.source_key != repack.target_key else TARGET


def park_until_room(services: Services, repack: Repack, error: DatabaseFull) -> None:
    """Park a repack whose database is full, if that much can still be written; else the log alone says so.

    Either way nothing is lost: the sweeper comes back, and it goes on once there is room.
    """
    log.error("database.full", repack=str(repack.repack_id), code=error.code, why=error.why, remedy=error.remedy)
    try:
        _park(services, repack, DATABASE_SIDE, error.code, str(error))
    except DatabaseFailed as failed:
        log.warning("repack.not_parked", repack=str(repack.repack_id), code=failed.code)


def _park(services: Services, repack: Repack, side: str, cause: str, detail: str, **facts: str) -> Repack:
    def write(connection: Connection, current: Repack) -> Repack:
        if not current.is_running:
            return current
        now, wait = read_clock(connection), services.settings.kms_probe_seconds
        log.warning("repack.blocked", repack=str(current.repack_id), side=side, cause=cause)
        return change_state(
            connection,
            current,
            RepackState.BLOCKED,
            "repack.blocked",
            actor=services.owner,
            facts={"side": side, "cause": cause, **facts},
            block_side=side,
            block_cause=cause,
            block_detail=detail,
            blocked_at=now,
            probe_at=now + wait,
            probes=0,
        )

    return _steer(services, repack, write)


def look_again(services: Services, repack: Repack) -> Repack:
    """Look at what a blocked repack waits for if it is time; go on if it is back, else wait longer."""
    with services.database.read() as connection:
        is_locked = get_environment(connection, repack.environment).lock_cause is not None
    if is_locked or (repack.probe_at is not None and services.database.now() < repack.probe_at):
        return repack
    what_holds = _still_full(services) if repack.block_side == DATABASE_SIDE else _first_failure(services, repack)

    def write(connection: Connection, current: Repack) -> Repack:
        if current.state != RepackState.BLOCKED or current.probes != repack.probes:
            return current
        if what_holds is None:
            return change_state(
                connection,
                current,
                current.stage_state,
                "repack.resumed",
                actor=services.owner,
                facts={"was": current.block_cause},
                probes=0,
            )
        settings, probes = services.settings, current.probes + 1
        wait = min(settings.kms_probe_max_seconds, settings.kms_probe_seconds * 2 ** min(probes, 16))
        return set_columns(connection, current, probes=probes, probe_at=read_clock(connection) + wait, **what_holds)

    return _steer(services, repack, write)


def _still_full(services: Services) -> dict[str, str] | None:
    """What to write of a database that takes nothing yet. Room for a few batches is wanted, or it only stumbles on."""
    try:
        require_room(services.database)
    except DatabaseFailed as error:
        return {"block_detail": str(error)}
    return None


def _first_failure(services: Services, repack: Repack) -> dict[str, str] | None:
    """What to write of the main keys that a repack needs now, if one is still away: it may be another one by now."""
    with services.database.read() as connection:
        environment = get_environment(connection, repack.environment)
    # R1: a quarantined root keeps the move open into the renewal, and new roots are wrapped under both.
    needed = repack.source_key if repack.move_closed_at is None else repack.target_key
    source = TopVersion(version=0, main_key=needed, generation=None, state=TopState.ACTIVE)
    probe = probe_replacement(services, environment, source, MainKeyUri.parse(repack.target_key))
    bad = next((finding for finding in probe.findings if not finding.ok), None)
    if bad is None:
        return None
    seen = {"block_detail": bad.cause}
    if bad.refusal is not None:
        seen |= {"block_side": _side(repack, bad.main_key), "block_cause": bad.refusal.value}
    return seen


def _is_held(repack: Repack) -> bool:
    return repack.state == RepackState.FINISHED_WITH_QUARANTINE


@again_after_conflict
def _steer(services: Services, repack: Repack, write: Callable[[Connection, Repack], Repack]) -> Repack:
    """Change a repack under the locks of its environment and itself, then wake whoever has to know."""
    with services.database.write() as connection:
        lock_environment(connection, repack.environment)
        changed = write(connection, get_repack(connection, repack.id))
    reach(Point.STEER_COMMITTED)
    if changed.is_running:
        services.wake.repack(changed.id)
    services.wake.outbox()
    return changed
