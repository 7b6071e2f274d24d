"""THE PAGE: a repack from start to finish, in the order in which it happens.

    start_repack ─► walk_slice ─► … ─► advance: close_move ─► walk_slice ─► … ─► advance: finish
                       │ claim, batch, checkpoint, batch, checkpoint, leave

Every step is a transaction that can be the last thing a process does: whoever comes next goes on from there.
What may happen to a repack from outside (pause, block, abort, stop, retry) is in `steering`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas.keys import MainKeyUri, TopState
from schemas.states import Mode, RepackState, Stage
from workers.errors import (
    AlreadyInForce,
    AnotherStarted,
    DatabaseFull,
    EnvironmentLocked,
    KmsBudgetSpent,
    KmsRefused,
    KmsUnreachable,
    LeaseLost,
    LostRace,
    RepackConflict,
)
from workers.locks.guards import MANAGED, require_interval, require_unlocked
from workers.locks.locking import suspect
from workers.repack.batches import Batch, Run, Walk, traced
from workers.repack.certificate import make_certificate
from workers.repack.control import block, look_again, park_until_room
from workers.repack.move import MoveWalk
from workers.repack.planning import next_stage, plan_move, plan_stage
from workers.repack.probe import Probe, probe_replacement
from workers.repack.renew import RenewWalk
from workers.repack.shred import ShredWalk
from workers.repack.time_slices import Turn
from workers.runtime.counters import BATCH_SECONDS, LEASE_LOSSES
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.phase_timer import Stopwatch
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import shards
from workers.store.database import Connection
from workers.store.environments import (
    Environment,
    TopVersion,
    drop_root_wraps,
    get_environment,
    insert_top,
    last_top_version,
    live_tops,
    lock_environment,
    set_top_state,
)
from workers.store.hierarchy_queries import check_tree, count_draining, deepest_level
from workers.store.outbox import tell
from workers.store.quarantine import count_open, release
from workers.store.repacks import (
    Repack,
    change_state,
    create_repack,
    get_repack,
    hold_running,
    latest_repack,
    open_repack,
    set_columns,
)
from workers.store.roots import count_unmoved
from workers.store.shards import Range, Shard, Tally

WALKS: dict[Stage, Callable[[Run, Shard], Walk]] = {
    Stage.MOVE: MoveWalk,
    Stage.RENEW: RenewWalk,
    Stage.SHRED: ShredWalk,
}

WRITTEN = {Stage.MOVE: Point.MOVE_WRITTEN, Stage.RENEW: Point.RENEW_WRITTEN, Stage.SHRED: Point.SHRED_WRITTEN}
COMMITTED = {Stage.MOVE: Point.MOVE_COMMITTED, Stage.RENEW: Point.RENEW_COMMITTED, Stage.SHRED: Point.SHRED_COMMITTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: move an environment to a main key. `target` None: to its own key's current generation."""

    environment: Environment
    target: MainKeyUri | None
    mode: Mode
    actor: str
    override: str | None = None  # why the replacement interval does not hold this once
    anew: bool = False  # also where that key is in force: what hangs below it is older than that
    reason: str = ""  # why it is done at all; kept in the audit


Settle = Callable[[Connection, Repack], None]
"""What else is to be written in the transaction that starts a repack."""

STARTS = 3
"""How often a start that lost a race looks at what the winner left."""


def _settle_nothing(_connection: Connection, _repack: Repack) -> None:
    """Nothing else is to be written."""


# 1. Start: probe, plan, and one transaction that makes it so ---------------------------------------------------------


def start_repack(services: Services, request: Request, *, settle: Settle = _settle_nothing) -> Repack:
    """Start a repack, or return the open one that was asked for in the same words.

    `settle(connection, repack)` runs in the same transaction: an event's effect and its record commit together (R2).
    Raises ProbeFailed (R7), ProbeUnanswered, RepackConflict, AlreadyInForce, HierarchyBroken; then nothing was changed.
    """
    for _ in range(STARTS - 1):
        try:
            return _start(services, request, settle)
        except AnotherStarted:
            log.info("repack.start_lost_race", environment=str(request.environment.environment_id))
    return _start(services, request, settle)


@again_after_conflict
def _start(services: Services, request: Request, settle: Settle) -> Repack:
    source, target = _ends(services, request)
    found = _same_or_conflict(services, request, target)
    if found is not None:
        with services.database.write() as connection:
            settle(connection, found)
        return found
    probe = probe_replacement(services, request.environment, source, target)
    reach(Point.START_PROBED)
    if not probe.is_clear:
        raise probe.failure()
    is_same = str(target) == source.main_key and probe.generation == source.generation
    if is_same and (probe.generation or request.target) and not request.anew and not _left_to_renew(services, request):
        raise AlreadyInForce(main_key=source.main_key)
    with services.database.read() as connection:
        check_tree(connection, request.environment.id, with_data=request.mode == Mode.DEEP)
        ranges = plan_move(connection, request.environment)
    with services.database.write() as connection:
        repack = _create(connection, services, request, source, target, probe, ranges)
        settle(connection, repack)
    reach(Point.START_COMMITTED)
    log.info("repack.started", repack=str(repack.repack_id), environment=str(request.environment.environment_id))
    services.tracer.begin(repack.repack_id, "repack.started", mode=repack.mode.value)
    services.wake.repack(repack.id, times=len(ranges) or 1)
    services.wake.outbox()
    return repack


def _left_to_renew(services: Services, request: Request) -> bool:
    """Whether a deep repack finds a renewal that was stopped: reason enough under the same key."""
    with services.database.read() as connection:
        last = latest_repack(connection, request.environment.id)
    return request.mode == Mode.DEEP and last is not None and last.state == RepackState.STOPPED


def _ends(services: Services, request: Request) -> tuple[TopVersion, MainKeyUri]:
    """The top version in force, and the main key to move to."""
    with services.database.read() as connection:
        require_unlocked(connection, request.environment)
        source = live_tops(connection, request.environment.id)[0]
    return source, request.target or MainKeyUri.parse(source.main_key)


def _same_or_conflict(services: Services, request: Request, target: MainKeyUri) -> Repack | None:
    """The open repack if it is the one asked for. Raises RepackConflict if it is another one."""
    with services.database.read() as connection:
        repack = open_repack(connection, request.environment.id)
    if repack is None or (repack.target_key == str(target) and repack.mode == request.mode):
        return repack
    raise RepackConflict(
        environment=request.environment.environment_id, repack=repack.repack_id, state=repack.state.value
    )


def _create(
    connection: Connection,
    services: Services,
    request: Request,
    source: TopVersion,
    target: MainKeyUri,
    probe: Probe,
    ranges: list[Range],
) -> Repack:
    environment = lock_environment(connection, request.environment.id)
    require_unlocked(connection, environment)
    require_interval(
        connection,
        environment,
        source,
        target,
        interval=services.settings.replacement_interval,
        actor=request.actor,
        override=request.override,
    )
    if live_tops(connection, environment.id)[0] != source:
        raise AnotherStarted  # and ended, between our look and our lock
    version = last_top_version(connection, environment.id) + 1
    repack = create_repack(
        connection,
        environment=environment.id,
        mode=request.mode,
        levels=deepest_level(connection, environment.id),
        from_top=source.version,
        to_top=version,
        source_key=source.main_key,
        target_key=str(target),
        actor=request.actor,
        kms_calls=probe.calls,
    )
    # What was set aside is tried again by this run: all of it by a deep one, the roots by a shallow one.
    release(connection, environment.id, stage=None if request.mode == Mode.DEEP else Stage.MOVE)
    # R1: from here on new roots are wrapped under both; every root keeps its old wrap until the move closes.
    set_top_state(connection, environment.id, source.version, TopState.DRAINING)
    insert_top(connection, environment.id, version=version, main_key=str(target), generation=probe.generation)
    shards.plan_shards(connection, repack.id, Stage.MOVE, 1, ranges)
    _tell_started(connection, request, repack, source, probe, ranges)
    return repack


def _tell_started(
    connection: Connection, request: Request, repack: Repack, source: TopVersion, probe: Probe, ranges: list[Range]
) -> None:
    tell(
        connection,
        "repack.started",
        actor=request.actor,
        environment_id=repack.environment_id,
        repack_id=repack.repack_id,
        facts={
            "mode": request.mode.value,
            "source": source.main_key,
            "source_generation": source.generation,
            "target": repack.target_key,
            "target_generation": probe.generation,
            "roots": sum(part.expected for part in ranges),
            "shards": len(ranges),
            **({"reason": request.reason} if request.reason else {}),
        },
    )


# 2. Walk: claim a shard, batch after batch, leave --------------------------------------------------------------------


def walk_slice(services: Services, repack_id: int) -> bool:
    """Work on a repack for a turn, shard after shard, then make room for others.

    Returns whether there is more to do. Any number of workers may call it, at once, after any crash, again and again.
    """
    with services.database.read() as connection:
        repack = get_repack(connection, repack_id)
        environment = get_environment(connection, repack.environment)
    if repack.state == RepackState.BLOCKED:
        repack = look_again(services, repack)
    turn, watch = Turn(services, repack_id), Stopwatch()
    try:
        while repack.is_running:
            run, shard = _claim(services, repack)
            watch.lap("claim")
            repack, environment = run.repack, run.environment
            if shard is not None:
                reach(Point.SHARD_CLAIMED)
                walk_shard(run, shard, turn)
                watch.lap("walk")
            elif not (repack.is_running and advance(services, repack)):
                return False  # other workers hold what is left; the last one of them goes on
            else:
                watch.lap("plan")
            if turn.is_over():  # never before a step was taken: a slice makes progress, however short it is
                break
    except KmsBudgetSpent as error:
        log.info("slice.found_budget_spent", repack=str(repack.repack_id), why=error.why)
    except (KmsRefused, KmsUnreachable) as error:
        block(services, repack, error)
        if isinstance(error, KmsRefused):
            suspect(services, environment, error)
        return False
    except DatabaseFull as error:
        park_until_room(services, repack, error)
        return False
    except EnvironmentLocked as error:
        log.info("slice.found_lock", repack=str(repack.repack_id), cause=error.cause)
        return False
    except LostRace as error:
        if isinstance(error, LeaseLost):
            services.counters.count(LEASE_LOSSES)
        log.info("slice.lost_race", repack=str(repack.repack_id), why=str(error))
    finally:
        watch.lap("leave")
        log.debug("slice.ended", repack=str(repack.repack_id), seconds=watch.spent())
    return repack.is_running


@again_after_conflict
def _claim(services: Services, repack: Repack) -> tuple[Run, Shard | None]:
    """A shard where one is free, and the repack and its environment as they are while nobody can change them."""
    with services.database.write() as connection:
        held = hold_running(connection, repack)
        run = Run(
            services=services,
            repack=get_repack(connection, repack.id),
            environment=get_environment(connection, repack.environment),
        )
        if not held.is_at_work:
            return run, None
        shard = shards.claim_shard(
            connection, repack.id, owner=services.owner, lease_seconds=services.settings.lease_seconds
        )
    return run, shard


@traced("shard.walk")
def walk_shard(run: Run, shard: Shard, turn: Turn) -> None:
    """Batch after batch until the shard or the turn ends. Whatever is raised, the lease is given back."""
    walk = WALKS[shard.stage](run, shard)
    done = False
    try:
        while not done:
            begun = run.services.clock()
            batch = walk.prepare(shard.cursor)
            run.watch.lap("prepare")
            shard = commit_batch(run, shard, batch)
            run.services.counters.observe(BATCH_SECONDS, shard.stage.value, seconds=run.services.clock() - begun)
            if batch.failure is not None:
                raise batch.failure
            done = batch.is_last
            if turn.is_over():
                break
    finally:
        if not done:
            reach(Point.SHARD_LEFT)
            _release(run, shard)
        facts = {"repack": str(run.repack.repack_id), "stage": shard.stage.value, "done": done}
        log.debug("shard.left", shard=shard.id, **facts, seconds=run.watch.spent())


@again_after_conflict
def _release(run: Run, shard: Shard) -> None:
    with run.services.database.write() as connection:
        shards.release_shard(connection, shard)


@traced("batch.commit")
@again_after_conflict
def commit_batch(run: Run, shard: Shard, batch: Batch) -> Shard:
    """Keys, counts and cursor in one transaction, fenced by lease, state and epoch (R4, R8). Raises LeaseLost."""
    settings = run.services.settings
    with run.services.database.write() as connection:
        held = hold_running(connection, run.repack)
        if not held.is_at_work or held.epoch != run.environment.epoch:
            raise LeaseLost(shard=shard.id, why=f"The repack is {held.state.value}.")
        tally = batch.write(connection)
        shard = shards.checkpoint(
            connection,
            shard,
            cursor=batch.cursor,
            tally=tally,
            done=batch.is_last,
            lease_seconds=settings.lease_seconds,
        )
        _tell_quarantine(connection, run, tally)
        run.watch.lap("write")
        reach(WRITTEN[shard.stage])
    run.watch.lap("commit")
    reach(COMMITTED[shard.stage])
    batch.written()
    log.debug("shard.checkpointed", shard=shard.id, seen=tally.seen, rewrapped=tally.rewrapped)
    return shard


def _tell_quarantine(connection: Connection, run: Run, tally: Tally) -> None:
    if tally.quarantined:
        tell(
            connection,
            "key.quarantined",
            actor=run.services.owner,
            environment_id=run.repack.environment_id,
            repack_id=run.repack.repack_id,
            facts={"keys": tally.quarantined},
        )


# 3. Advance: when no shard of a stage is left, close it and plan the next --------------------------------------------


@again_after_conflict
def advance(services: Services, repack: Repack) -> bool:
    """Take the next step of a repack whose shards are all walked. Returns whether a step was taken.

    Every worker may try: the step is taken under the locks of environment and repack, by whoever comes first.
    """
    with services.database.read() as connection:
        if shards.count_unfinished(connection, repack.id)[0]:
            return False  # no plan is read for nothing
    following = next_stage(services, repack)
    ranges = plan_stage(services, repack, following) if following else []
    reach(Point.STAGE_PLANNED)
    with services.database.write() as connection:
        environment = lock_environment(connection, repack.environment)
        current = get_repack(connection, repack.id)
        unfinished, _ = shards.count_unfinished(connection, repack.id)
        moved_on = (current.state, current.stage, current.level) != (repack.state, repack.stage, repack.level)
        if moved_on or unfinished or environment.lock_cause:
            return unfinished == 0 and current.is_running and not environment.lock_cause
        if current.stage == Stage.MOVE and not _close_move(connection, services, current, environment):
            return True  # roots were created meanwhile: they have shards of their own now
        if following is None:
            _finish(connection, services, current)
        else:
            _enter(connection, services, current, following, ranges)
            reach(Point.STAGE_WRITTEN)
    reach(Point.STAGE_COMMITTED)
    services.wake.repack(repack.id, times=len(ranges) - 1)  # whoever took the step goes on himself
    services.wake.outbox()
    return True


def _enter(
    connection: Connection, services: Services, repack: Repack, following: tuple[Stage, int], ranges: list[Range]
) -> None:
    stage, level = following
    if repack.stage == Stage.MOVE:
        change_state(
            connection,
            repack,
            RepackState.RENEWING,
            "repack.renewing",
            actor=services.owner,
            stage=Stage.RENEW,
            level=0,
        )
        return
    shards.plan_shards(connection, repack.id, stage, level, ranges)
    set_columns(connection, repack, stage=stage, level=level)


def _close_move(connection: Connection, services: Services, repack: Repack, environment: Environment) -> bool:
    """Drop the old wraps once no root needs them (R1). Writers are shut out by the environment's lock.

    A quarantined root keeps the move open, and the old main key in force beside the new one. False: there are roots
    that have to be moved first.
    """
    missing, quarantined = count_unmoved(connection, environment.id, repack.to_top)
    if missing > quarantined:
        shards.plan_shards(connection, repack.id, Stage.MOVE, 1, plan_move(connection, environment))
        return False
    if missing:
        return True
    older = [top.version for top in live_tops(connection, environment.id) if top.version < repack.to_top]
    certificate = make_certificate(connection, repack, environment, backup_retention=services.settings.backup_retention)
    drop_root_wraps(connection, environment.id, older)
    for version in older:
        set_top_state(connection, environment.id, version, TopState.RETIRED)
    set_columns(connection, repack, move_closed_at=certificate["closed_at"], certificate=certificate)
    tell(
        connection,
        "repack.move_closed",
        actor="keyrepack",
        environment_id=environment.environment_id,
        repack_id=repack.repack_id,
        facts={"certificate": certificate},
    )
    if repack.source_key == MANAGED != repack.target_key:
        facts = {"main_key": repack.target_key}
        tell(
            connection,
            "main_key.adopted",
            actor=repack.actor,
            environment_id=environment.environment_id,
            repack_id=repack.repack_id,
            facts=facts,
        )
    reach(Point.CLOSE_WRITTEN)
    return True


def _finish(connection: Connection, services: Services, repack: Repack) -> None:
    """The end: nothing is stale, or only what quarantined keys hold back (R9)."""
    walked = None if repack.mode == Mode.DEEP else Stage.MOVE
    quarantined = count_open(connection, environment=repack.environment, stage=walked)
    if repack.mode == Mode.DEEP and not quarantined and count_draining(connection, repack.environment):
        set_columns(connection, repack, stage=Stage.RENEW, level=deepest_level(connection, repack.environment))
        return  # a version began to drain after its level was shredded: once more from the bottom up
    state = RepackState.FINISHED_WITH_QUARANTINE if quarantined else RepackState.FINISHED
    totals = shards.totals(connection, repack.id)
    change_state(
        connection,
        repack,
        state,
        f"repack.{state.value}",
        actor=services.owner,
        facts={
            "seen": totals.seen,
            "rewrapped": totals.rewrapped,
            "already_current": totals.already_current,
            "quarantined": quarantined,
            "minted": totals.minted,
            "shredded": totals.shredded,
            "kms_calls": totals.kms_calls + repack.kms_calls,
        },
    )
    reach(Point.FINISH_WRITTEN)
