"""The steps of a start: the request, the checks before anything changes, and the transaction that makes it so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas.keys import MainKeyUri, TopState
from schemas.ranges import Range
from schemas.states import Mode, RepackState, Stage
from workers.errors import AlreadyInForce, AnotherStarted, RepackConflict
from workers.locks.guards import require_unlocked
from workers.repack.probe import Probe
from workers.repack.replacement_interval import require_interval
from workers.services import Services
from workers.store import shards
from workers.store.database import Connection
from workers.store.environments import (
    Environment,
    TopVersion,
    insert_top,
    last_top_version,
    live_tops,
    lock_environment,
    set_top_state,
)
from workers.store.hierarchy_queries import deepest_level
from workers.store.outbox import record_event
from workers.store.quarantine import release
from workers.store.repacks import Repack, create_repack, latest_repack, open_repack

InStart = Callable[[Connection, Repack], None]
"""What a caller wants to be written in the transaction that starts a repack, or finds the one asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: move an environment to a main key. `target` None: to its own key's current generation."""

    environment: Environment
    target: MainKeyUri | None
    mode: Mode
    actor: str
    override: str | None = None  # why the replacement interval does not hold this once
    anew: bool = False  # also where that key is in force: what is wrapped below it is older than that
    reason: str = ""  # why it is done at all; kept in the audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request that can be carried out: the key it leaves, the key it goes to, the probe, the first shards."""

    request: Request
    source: TopVersion
    target: MainKeyUri
    probe: Probe
    ranges: list[Range]


def source_and_target(services: Services, request: Request) -> tuple[TopVersion, MainKeyUri]:
    """Return the top version in force, and the main key to move to. Raises EnvironmentLocked."""
    with services.database.read() as connection:
        require_unlocked(connection, request.environment)
        source = live_tops(connection, request.environment.id)[0]
    return source, request.target or MainKeyUri.parse(source.main_key)


def find_same(services: Services, request: Request, target: MainKeyUri) -> Repack | None:
    """Return the open repack if it is the one asked for. Raises RepackConflict if it is another one."""
    with services.database.read() as connection:
        repack = open_repack(connection, request.environment.id)
    if repack is None or (repack.target_key == str(target) and repack.mode == request.mode):
        return repack
    raise RepackConflict(
        environment=request.environment.environment_id, repack=repack.repack_id, state=repack.state.value
    )


def require_change(services: Services, request: Request, source: TopVersion, target: MainKeyUri, probe: Probe) -> None:
    """Raise AlreadyInForce where the main key asked for is in force, at the generation that the KMS uses now.

    A deep repack that finishes a stopped renewal is a change under the same key, and so is one asked for `anew`.
    """
    is_same = str(target) == source.main_key and probe.generation == source.generation
    is_known = probe.generation is not None or request.target is not None
    if is_same and is_known and not request.anew and not _was_stopped(services, request):
        raise AlreadyInForce(main_key=source.main_key)


def _was_stopped(services: Services, request: Request) -> bool:
    """Return True if a deep repack finds a renewal that was stopped: reason enough under the same key."""
    with services.database.read() as connection:
        last = latest_repack(connection, request.environment.id)
    return request.mode == Mode.DEEP and last is not None and last.state == RepackState.STOPPED


def create(connection: Connection, services: Services, plan: Plan) -> Repack:
    """Write the repack, its new top version and its first shards.

    Raises EnvironmentLocked, ReplacedTooSoon, AnotherStarted, RepackConflict.
    """
    request, source, target, probe = plan.request, plan.source, plan.target, plan.probe
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
        raise AnotherStarted  # and ended, between our read and our lock
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
    shards.plan_shards(connection, repack.id, Stage.MOVE, 1, plan.ranges)
    _record_start(connection, repack, plan)
    return repack


def _record_start(connection: Connection, repack: Repack, plan: Plan) -> None:
    request, source = plan.request, plan.source
    record_event(
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
            "target_generation": plan.probe.generation,
            "roots": sum(part.expected for part in plan.ranges),
            "shards": len(plan.ranges),
            **({"reason": request.reason} if request.reason else {}),
        },
    )
