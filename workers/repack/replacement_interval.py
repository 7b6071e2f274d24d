"""A main key is replaced at most once per interval (24 hours by default); an override needs an operator's reason."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.keys import MANAGED, MainKeyUri
from workers.errors import ReplacedTooSoon
from workers.store.database import Connection
from workers.store.environments import Environment, TopVersion
from workers.store.outbox import record_event
from workers.store.repacks import replacements
from workers.store.types import read_clock


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
    record_event(
        connection,
        "main_key.interval_overridden",
        actor=actor,
        environment_id=environment.environment_id,
        facts=facts,
    )


def next_replacement(connection: Connection, environment: Environment, *, interval: float) -> float | None:
    """Return when the environment's main key may be replaced next, in seconds since the epoch; None: at any time."""
    past = replacements(connection, environment.id)
    if past and past[0].source_key == str(MANAGED):
        past = past[1:]  # the adoption
    return past[-1].created_at + interval if past else None
