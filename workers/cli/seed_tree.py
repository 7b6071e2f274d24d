"""Creates a hierarchy of the usual tree: connection keys and hourly keys below the main key, job keys below those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from workers.keyring.keyring import Keyring

CHUNK = 5000
"""Keys created in one transaction: memory stays the same, however many there are."""

ROOTS_AT_ONCE = 200
"""Roots cost a call to the KMS each: they are stored before many of them can be lost."""

SAMPLES, SAMPLES_OF_CHUNK = 32, 2
"""Data keys remembered of a seeding and of each chunk, so that a reader may open them."""


@dataclass(slots=True, kw_only=True)
class Seeded:
    """What was created: all wrapping keys, and some of the data keys."""

    hourly: list[UUID] = field(default_factory=list)
    samples: list[UUID] = field(default_factory=list)
    data_keys: int = 0


def seed_hierarchy(
    keyring: Keyring,
    environment: str,
    *,
    connections: int,
    hourly: int,
    data: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Seeded:
    """Create `connections` data keys and `hourly` wrapping keys below the main key, and `data` keys spread over those.

    `on_progress` gets how many keys were created since its last call. Raises as `Keyring` does.
    """
    seeded = Seeded()
    for size in _chunks(connections, ROOTS_AT_ONCE):
        _remember(seeded, [created.key_id for created in keyring.create_data_keys(environment, None, size)])
        on_progress(size)
    for size in _chunks(hourly, ROOTS_AT_ONCE):
        seeded.hourly += keyring.create_wrapping_keys(environment, None, size)
        on_progress(size)
    for place, parent in enumerate(seeded.hourly):
        share = data // hourly + (place < data % hourly)
        for size in _chunks(share, CHUNK):
            _remember(seeded, [created.key_id for created in keyring.create_data_keys(environment, parent, size)])
            on_progress(size)
    return seeded


def _remember(seeded: Seeded, keys: list[UUID]) -> None:
    seeded.data_keys += len(keys)
    seeded.samples += keys[: min(SAMPLES_OF_CHUNK, SAMPLES - len(seeded.samples))]


def _chunks(total: int, size: int) -> list[int]:
    whole, rest = divmod(total, size)
    return [size] * whole + ([rest] if rest else [])
