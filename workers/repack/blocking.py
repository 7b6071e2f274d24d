"""Blocks a repack that something holds up: a main key that refuses or is silent, a full database, a locked environment.

The repack is parked with a typed reason, and checked again by itself, with growing pauses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.keys import MainKeyUri, TopState
from schemas.states import RepackState
from workers.errors import (
    DatabaseFailed,
    DatabaseFull,
    EnvironmentLocked,
    KmsBudgetSpent,
    KmsRefused,
    KmsUnreachable,
    LeaseLost,
    LostRace,
)
from workers.locks.restriction import confirm_refusal
from workers.repack.control import change_under_lock
from workers.repack.probe import probe_replacement
from workers.runtime.counters import LEASE_LOSSES
from workers.runtime.logs import log
from workers.services import Services
from workers.store.database import Connection
from workers.store.disk_space import require_room
from workers.store.environments import TopVersion, get_environment
from workers.store.repacks import Repack, change_state, set_columns
from workers.store.types import read_clock

SOURCE, TARGET = "source", "target"
"""Which main key holds a repack up: the one it leaves, or the one it goes to."""

DATABASE_SIDE = "database"
"""The side that a repack is blocked by where neither main key is at fault."""


@dataclass(slots=True)
class Parking:
    """Whether what was walked is parked now: there is nothing more to do for it."""

    is_parked: bool = False


@contextmanager
def parked_where_it_fails(services: Services, repack: Repack) -> Iterator[Parking]:
    """Park a repack that meets what holds it up while it is walked in this block; leave a lost race to the next slice.

    Nothing that belongs to a walk is raised: a main key or a database that fails, a lock, a lost race.
    """
    parking, name = Parking(), str(repack.repack_id)
    try:
        yield parking
    except KmsBudgetSpent as error:
        log.info("slice.found_budget_spent", repack=name, why=error.why)
    except (KmsRefused, KmsUnreachable) as error:
        parking.is_parked = True
        block(services, repack, error)
        if isinstance(error, KmsRefused):
            with services.database.read() as connection:
                environment = get_environment(connection, repack.environment)
            confirm_refusal(services, environment, error)
    except DatabaseFull as error:
        parking.is_parked = True
        park_until_room(services, repack, error)
    except EnvironmentLocked as error:
        parking.is_parked = True
        log.info("slice.found_lock", repack=name, cause=error.cause)
    except LostRace as error:
        if isinstance(error, LeaseLost):
            services.counters.count(LEASE_LOSSES)
        log.info("slice.lost_race", repack=name, why=str(error))


def block(services: Services, repack: Repack, error: KmsRefused | KmsUnreachable) -> Repack:
    """Park a repack whose main key is away, with a typed reason; it is checked again by itself."""
    side = _side(repack, error.main_key)
    return _park(services, repack, side, error.cause.value, str(error), main_key=error.main_key)


def _side(repack: Repack, main_key: str) -> str:
    return SOURCE if main_key == repack.source_key != repack.target_key else TARGET


def park_until_room(services: Services, repack: Repack, error: DatabaseFull) -> None:
    """Park a repack whose database is full, if that much can still be written; else the log alone says so.

    Either way nothing is lost: the sweeper comes back, and it goes on once there is disk space.
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

    return change_under_lock(services, repack, write)


def recheck(services: Services, repack: Repack) -> Repack:
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

    return change_under_lock(services, repack, write)


def _still_full(services: Services) -> dict[str, str] | None:
    """Return what to write of a database that takes nothing yet. Space for a few batches is wanted, or it only stumbles
    on.
    """
    try:
        require_room(services.database)
    except DatabaseFailed as error:
        return {"block_detail": str(error)}
    return None


def _first_failure(services: Services, repack: Repack) -> dict[str, str] | None:
    """Return what to write of the main keys that a repack needs now, if one is still away: it may be another one by
    now.
    """
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
