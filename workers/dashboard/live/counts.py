"""An environment's keys by level and state: counted behind the pages, for it takes long where there are many."""

from __future__ import annotations

from dataclasses import dataclass

from workers.services import Services
from workers.store.environments import count_keys
from workers.store.queries.listings import count_versions
from workers.store.types import read_clock


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCounts:
    """Keys of one environment, counted: it takes long where there are many."""

    keys: dict[str, dict[int, int]]
    versions: dict[int, dict[str, int]]
    counted_at: float


def count(services: Services, environment: int) -> KeyCounts:
    """Count an environment's keys."""
    with services.database.read() as connection:
        return KeyCounts(
            keys=count_keys(connection, environment),
            versions=count_versions(connection, environment),
            counted_at=read_clock(connection),
        )
