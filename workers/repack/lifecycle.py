"""THE PAGE: a repack from start to finish, in the order in which it happens.

    start_repack ─► walk_slice ─► … ─► advance: close the move ─► walk_slice ─► … ─► advance: finish
                       │ claim, batch, checkpoint, batch, checkpoint, leave

Every step is a transaction that can be the last thing a process does: the next worker goes on from there. What each
step is made of is in `starting`, `move`, `renew`, `shred` and `closing`; what an operator can do to a repack is in
`control`, and what holds one up in `blocking`.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.ranges import Range
from schemas.states import Mode, RepackState, Stage
from workers.errors import AnotherStarted, LeaseLost
from workers.repack import closing, starting
from workers.repack.batches import Batch, Run, Walk, traced
from workers.repack.blocking import parked_where_it_fails, recheck
from workers.repack.move import MoveWalk
from workers.repack.planning import next_stage, plan_move, plan_stage
from workers.repack.probe import probe_replacement
from workers.repack.renew import RenewWalk
from workers.repack.shred import ShredWalk
from workers.repack.starting import InStart, Plan, Request
from workers.repack.time_slices import TimeSlice
from workers.runtime.counters import BATCH_SECONDS
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.runtime.phase_timer import PhaseTimer
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import shards
from workers.store.database import Connection, write_nothing
from workers.store.environments import Environment, get_environment, lock_environment
from workers.store.hierarchy_queries import check_tree
from workers.store.outbox import record_event
from workers.store.repacks import Repack, change_state, get_repack, hold_running, set_columns
from workers.store.roots import count_unmoved
from workers.store.shards import Shard, Tally

WALKS: dict[Stage, Callable[[Run, Shard], Walk]] = {
    Stage.MOVE: MoveWalk,
    Stage.RENEW: RenewWalk,
    Stage.SHRED: ShredWalk,
}

WRITTEN = {Stage.MOVE: Point.MOVE_WRITTEN, Stage.RENEW: Point.RENEW_WRITTEN, Stage.SHRED: Point.SHRED_WRITTEN}
COMMITTED = {Stage.MOVE: Point.MOVE_COMMITTED, Stage.RENEW: Point.RENEW_COMMITTED, Stage.SHRED: Point.SHRED_COMMITTED}

STARTS = 3
"""How often a start that lost a race reads what the winner left."""


# 1. Start: probe, plan, and one transaction that makes it so ---------------------------------------------------------


def start_repack(services: Services, request: Request, *, in_transaction: InStart = write_nothing) -> Repack:
    """Start a repack, or return the open one that was asked for in the same words.

    `in_transaction(connection, repack)` runs in the same transaction: an event's effect and its record commit together
    (R2). Raises ProbeFailed (R7), ProbeUnanswered, RepackConflict, AlreadyInForce, HierarchyBroken; then nothing was
    changed.
    """
    for _ in range(STARTS - 1):
        try:
            return _start(services, request, in_transaction)
        except AnotherStarted:
            log.info("repack.start_lost_race", environment=str(request.environment.environment_id))
    return _start(services, request, in_transaction)


@again_after_conflict
def _start(services: Services, request: Request, in_transaction: InStart) -> Repack:
    source, target = starting.source_and_target(services, request)
    found = starting.find_same(services, request, target)
    if found is not None:
        with services.database.write() as connection:
            in_transaction(connection, found)
        return found
    probe = probe_replacement(services, request.environment, source, target)
    reach(Point.START_PROBED)
    if not probe.is_clear:
        raise probe.failure()
    starting.require_change(services, request, source, target, probe)
    with services.database.read() as connection:
        check_tree(connection, request.environment.id, with_data=request.mode == Mode.DEEP)
        ranges = plan_move(connection, request.environment)
    plan = Plan(request=request, source=source, target=target, probe=probe, ranges=ranges)
    with services.database.write() as connection:
        repack = starting.create(connection, services, plan)
        in_transaction(connection, repack)
    reach(Point.START_COMMITTED)
    log.info("repack.started", repack=str(repack.repack_id), environment=str(request.environment.environment_id))
    services.tracer.begin(repack.repack_id, "repack.started", mode=repack.mode.value)
    services.wake.repack(repack.id, times=len(ranges) or 1)
    services.wake.outbox()
    return repack


# 2. Walk: claim a shard, batch after batch, leave --------------------------------------------------------------------


def walk_slice(services: Services, repack_id: int) -> bool:
    """Walk a repack for a time slice, shard after shard, then leave to others. Return True if there is more to do.

    Any number of workers may call it, at once, after any crash, again and again.
    """
    with services.database.read() as connection:
        repack = get_repack(connection, repack_id)
    if repack.state == RepackState.BLOCKED:
        repack = recheck(services, repack)
    time_slice, timer = TimeSlice(services, repack_id), PhaseTimer()
    with parked_where_it_fails(services, repack) as walk:
        while repack.is_running:
            run, shard = _claim(services, repack)
            timer.lap("claim")
            repack = run.repack
            if shard is not None:
                reach(Point.SHARD_CLAIMED)
                walk_shard(run, shard, time_slice)
                timer.lap("walk")
            elif not (repack.is_running and advance(services, repack)):
                return False  # other workers hold what is left; the last one of them goes on
            else:
                timer.lap("plan")
            if time_slice.is_over():  # never before a step was taken: a slice makes progress, however short it is
                break
    timer.lap("leave")
    log.debug("slice.ended", repack=str(repack.repack_id), seconds=timer.spent())
    return repack.is_running and not walk.is_parked


@again_after_conflict
def _claim(services: Services, repack: Repack) -> tuple[Run, Shard | None]:
    """Claim a shard if one is free; return it with repack and environment as they are while no transaction can change
    them.
    """
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
def walk_shard(run: Run, shard: Shard, time_slice: TimeSlice) -> None:
    """Rewrap batch after batch until the shard or the time slice ends. Whatever is raised, the lease is given back."""
    walk = WALKS[shard.stage](run, shard)
    done = False
    try:
        while not done:
            begun = run.services.clock()
            batch = walk.prepare(shard.cursor)
            run.timer.lap("prepare")
            shard = commit_batch(run, shard, batch)
            run.services.counters.observe(BATCH_SECONDS, shard.stage.value, seconds=run.services.clock() - begun)
            if batch.failure is not None:
                raise batch.failure
            done = batch.is_last
            if time_slice.is_over():
                break
    finally:
        if not done:
            reach(Point.SHARD_LEFT)
            _release(run, shard)
        facts = {"repack": str(run.repack.repack_id), "stage": shard.stage.value, "done": done}
        log.debug("shard.left", shard=shard.id, **facts, seconds=run.timer.spent())


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
        _record_quarantine(connection, run, tally)
        run.timer.lap("write")
        reach(WRITTEN[shard.stage])
    run.timer.lap("commit")
    reach(COMMITTED[shard.stage])
    batch.written()
    log.debug("shard.checkpointed", shard=shard.id, seen=tally.seen, rewrapped=tally.rewrapped)
    return shard


def _record_quarantine(connection: Connection, run: Run, tally: Tally) -> None:
    if tally.quarantined:
        record_event(
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

    Every worker may try: the step is taken under the locks of environment and repack, by the first worker.
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
            closing.finish(connection, services, current)
        else:
            _enter(connection, services, current, following, ranges)
            reach(Point.STAGE_WRITTEN)
    reach(Point.STAGE_COMMITTED)
    services.wake.repack(repack.id, times=len(ranges) - 1)  # the worker that took the step goes on
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
    """Close the move once no root needs its old wrap (R1). Writers are shut out by the environment's lock.

    A quarantined root keeps the move open, and the old main key in force beside the new one. Return False if there are
    roots that have to be moved first: they have shards now.
    """
    missing, quarantined = count_unmoved(connection, environment.id, repack.to_top)
    if missing > quarantined:
        shards.plan_shards(connection, repack.id, Stage.MOVE, 1, plan_move(connection, environment))
        return False
    if not missing:
        closing.retire_source(connection, services, repack, environment)
    return True
