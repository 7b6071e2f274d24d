"""The dry run of a repack: probes, keys, shards, KMS calls, time, and what stands in its way. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.errors import KeyrepackError
from schemas.keys import MainKeyUri
from schemas.states import Mode, RepackState, Stage
from workers.errors import AlreadyInForce, EnvironmentLocked, HierarchyBroken, RepackConflict, ReplacedTooSoon
from workers.repack.planning import KEYS_IN_SHRED_SHARD, plan_move
from workers.repack.probe import Probe, probe_replacement
from workers.repack.replacement_interval import next_replacement
from workers.repack.sharding import cut_children
from workers.services import Services
from workers.store.database import Connection
from workers.store.environments import Environment, TopVersion, count_keys, live_tops
from workers.store.hierarchy_queries import check_tree, child_counts, split_parent, wrapping_key_rows
from workers.store.repacks import Repack, list_repacks, open_repack
from workers.store.shards import progress
from workers.store.types import read_clock

ASSUMED_RATE = 25_000.0
"""Keys a second where no repack has been measured yet: two workers on two cores, and SQLite, do more."""

ENOUGH_KEYS = 1_000
"""A repack of fewer keys says little about the rate of a large one."""

LOCAL = {"managed", "uploaded"}
"""Main keys that are opened inside the process: no call leaves it."""

CALLS_TO_MINT = 3
"""A root's fresh version: generated, opened again to compare (R6), and its old version opened once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would happen. `seconds` is an estimate; `rests_on` says on what."""

    environment: str
    mode: str
    source: str
    target: str
    findings: list[dict[str, Any]]
    keys: dict[str, dict[int, int]]
    shards: dict[str, int]
    kms_calls: int
    seconds: float
    rests_on: str
    blockers: list[dict[str, str]]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"changed": False}


def forecast(
    services: Services, environment: Environment, target: MainKeyUri, mode: Mode, *, overridden: bool = False
) -> Forecast:
    """Probe both keys, count and plan; `overridden`: however soon after the last one.

    Raises DatabaseFailed alone: everything else is a blocker.
    """
    with services.database.read() as connection:
        source = live_tops(connection, environment.id)[0]
    begun = time.monotonic()
    probe = probe_replacement(services, environment, source, target)
    probed = time.monotonic() - begun
    with services.database.read() as connection:
        keys = count_keys(connection, environment.id)
        shards = _shards(connection, services, environment, mode, keys)
        rate, rate_from = _rate(connection)
        errors = list(_blockers(connection, environment, source, target, mode, probe))
        if not overridden and str(target) != source.main_key:
            errors += _too_soon(connection, environment, services.settings.replacement_interval)
    calls = probe.calls + _calls(services, keys, MainKeyUri.parse(source.main_key), target, mode)
    call_seconds = probed / probe.calls if probe.calls else 0.0
    below = sum(count for level, count in keys["data"].items() if level > 1) if mode == Mode.DEEP else 0
    return Forecast(
        environment=str(environment),
        mode=mode.value,
        source=source.main_key,
        target=str(target),
        findings=[asdict(finding) for finding in probe.findings],
        keys=keys,
        shards=shards,
        kms_calls=calls,
        seconds=round(calls * call_seconds / services.settings.kms_concurrency + below / rate, 2),
        rests_on=_rests_on(rate if below else None, rate_from, call_seconds, services.settings.kms_concurrency),
        blockers=[_blocker(error) for error in errors],
    )


def _shards(
    connection: Connection, services: Services, environment: Environment, mode: Mode, keys: dict[str, dict[int, int]]
) -> dict[str, int]:
    """Count the shards that each stage would have, by the engine's own planning."""
    shards = {Stage.MOVE.value: len(plan_move(connection, environment))}
    if mode == Mode.SHALLOW:
        return shards
    for level in sorted(keys["wrapping"]):
        counts = child_counts(connection, environment.id, level)

        def split(parent: int, step: int, level: int = level) -> Iterator[int]:
            return split_parent(connection, environment.id, level, parent, step)

        shards[f"renew {level}"] = sum(1 for _ in cut_children(counts, size=services.settings.shard_size, split=split))
    for level in sorted(keys["wrapping"], reverse=True):
        rows = ((key, 1) for key in wrapping_key_rows(connection, environment.id, level))
        shards[f"shred {level}"] = sum(1 for _ in cut_children(rows, size=KEYS_IN_SHRED_SHARD, split=lambda *_: ()))
    return shards


def _calls(
    services: Services, keys: dict[str, dict[int, int]], source: MainKeyUri, target: MainKeyUri, mode: Mode
) -> int:
    """Count the calls over a network: per root to move it, per wrapping root to renew it."""
    wrapping = keys["wrapping"].get(1, 0)
    roots = wrapping + keys["data"].get(1, 0)
    from_afar, to_afar = source.scheme not in LOCAL, target.scheme not in LOCAL
    try:
        inside = services.kms.main_key(target).can_rewrap_from(source)
    except KeyrepackError:  # no adapter: the probe has said so
        return 0
    a_root = int(to_afar) if inside else int(from_afar) + 2 * int(to_afar)
    return roots * a_root + (wrapping * CALLS_TO_MINT * int(to_afar) if mode == Mode.DEEP else 0)


def _rate(connection: Connection) -> tuple[float, str]:
    """Keys a second of the newest deep repack that says something, and where that comes from."""
    for repack in list_repacks(connection, states=frozenset({RepackState.FINISHED}), limit=50):
        rate = _renewal_rate(connection, repack)
        if rate is not None:
            return rate, f"measured by repack {repack.repack_id}"
    return ASSUMED_RATE, "assumed: no repack was measured yet"


def _renewal_rate(connection: Connection, repack: Repack) -> float | None:
    parts = [part for part in progress(connection, repack.id) if part.stage == Stage.RENEW]
    keys = sum(part.rewrapped for part in parts)
    seconds = sum((part.finished_at or 0.0) - (part.started_at or 0.0) for part in parts)
    return keys / seconds if keys >= ENOUGH_KEYS and seconds > 0 else None


def _rests_on(rate: float | None, rate_from: str, call_seconds: float, concurrency: int) -> str:
    parts = [f"{rate:,.0f} keys/s, {rate_from}"] if rate is not None else []
    if call_seconds:
        parts.append(f"{call_seconds * 1000:,.0f} ms a KMS call, as the probe took, {concurrency} at once")
    return "it rests on " + ("; ".join(parts) or "local calls alone")


def _blockers(
    connection: Connection, environment: Environment, source: TopVersion, target: MainKeyUri, mode: Mode, probe: Probe
) -> Iterator[KeyrepackError]:
    if environment.lock_cause is not None:
        yield EnvironmentLocked(environment=environment.environment_id, cause=environment.lock_cause)
    repack = open_repack(connection, environment.id)
    if repack is not None:
        yield RepackConflict(environment=environment.environment_id, repack=repack.repack_id, state=repack.state.value)
    if not probe.is_clear:
        yield probe.failure()
    elif str(target) == source.main_key and probe.generation == source.generation:
        yield AlreadyInForce(main_key=source.main_key)
    try:
        check_tree(connection, environment.id, with_data=mode == Mode.DEEP)
    except HierarchyBroken as error:
        yield error


def _too_soon(connection: Connection, environment: Environment, interval: float) -> Iterator[KeyrepackError]:
    next_at = next_replacement(connection, environment, interval=interval)
    if interval and next_at is not None and read_clock(connection) < next_at:
        at = datetime.fromtimestamp(next_at, UTC)
        yield ReplacedTooSoon(environment=environment.environment_id, next_at=at)


def _blocker(error: KeyrepackError) -> dict[str, str]:
    return {"code": error.code, "what": error.what, "why": error.why, "remedy": error.remedy}
