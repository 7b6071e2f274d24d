"""Whether something may be asked for now: nothing of a locked environment, a replacement once in an interval."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.keys import MainKeyUri
from workers.errors import EnvironmentLocked, ReplacedTooSoon
from workers.store.database import Connection
from workers.store.environments import Environment, TopVersion, get_environment
from workers.store.outbox import tell
from workers.store.repacks import replacements
from workers.store.types import read_clock

MANAGED = "managed:"


def require_unlocked(connection: Connection, environment: Environment) -> None:
    """Raise EnvironmentLocked where the main key in force is restricted, revoked or lost."""
    require_open(get_environment(connection, environment.id))


def require_open(environment: Environment) -> Environment:
    """The same environment, as it was read. Raises EnvironmentLocked where it was locked then."""
    if environment.lock_cause is not None:
        raise EnvironmentLocked(environment=environment.environment_id, cause=environment.lock_cause)
    return environment


def require_interval(
    connection: Connection,
    environment: Environment,
    source: TopVersion,
    target: MainKeyUri,
    *,
    interval: float,
    actor: str,
    override: str | None,
) -> None:
    """Raise ReplacedTooSoon within `interval` seconds of the last replacement; an override is audited instead.

    A rotation is no replacement, and the adoption of a first customer's key does not count as one.
    """
    if str(target) == source.main_key or not interval:
        return
    next_at = next_replacement(connection, environment, interval=interval)
    if next_at is None or read_clock(connection) >= next_at:
        return
    if not override:
        raise ReplacedTooSoon(environment=environment.environment_id, next_at=datetime.fromtimestamp(next_at, UTC))
    facts = {"reason": override, "next_at": next_at, "target": str(target)}
    tell(
        connection,
        "main_key.interval_overridden",
        actor=actor,
        environment_id=environment.environment_id,
        facts=facts,
    )


def next_replacement(connection: Connection, environment: Environment, *, interval: float) -> float | None:
    """When the environment's main key may be replaced next, in seconds since the epoch; None: at any time."""
    past = replacements(connection, environment.id)
    if past and past[0].source_key == MANAGED:
        past = past[1:]  # the adoption
    return past[-1].created_at + interval if past else None
