"""What people look at: read models of repacks and environments, for the terminal and the dashboard. Reads only.

Rates are keys a second, times seconds since the epoch by the database's clock; None is "not known yet".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from schemas.states import LEGAL, LockCause, Mode, RepackState, Stage
from workers.errors import REMEDIES, DatabaseFull, NotFound
from workers.store import audit, environments, quarantine, repacks, shards
from workers.store.database import Connection
from workers.store.environments import Environment
from workers.store.repacks import Repack
from workers.store.shards import Progress
from workers.store.types import read_clock

WAITING, RUNNING, DONE = "waiting", "running", "done"
"""A stage that is not planned yet, one that is walked, one that has been walked."""

SHORTEST = 0.05
"""Seconds a rate is measured over at least: less is noise."""

MEANING: dict[RepackState, str] = {
    RepackState.MOVING: "Roots are getting wraps under the new main key; the old one is still needed.",
    RepackState.RENEWING: "The old main key is not needed any more; wrapping keys get fresh material, level by level.",
    RepackState.PAUSED: "An operator paused it; `keyrepack repack resume` goes on where it was.",
    RepackState.BLOCKED: "Something it needs is away: a main key, or room in the database; it goes on by itself.",
    RepackState.FINISHED: "Every key is where it belongs; nothing hangs from what was before.",
    RepackState.FINISHED_WITH_QUARANTINE: "It ended, but some keys could not be rewrapped; each is named below.",
    RepackState.ABORTED: "It was aborted: the old main key is in force, as before.",
    RepackState.STOPPED: "Its renewal was stopped; nothing is lost, the next deep repack picks it up.",
}
"""What each state means to somebody who has to decide what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One stage at one level, of one repack or of several together."""

    stage: Stage
    level: int
    state: str
    expected: int  # keys; of `shred`: wrapping keys
    seen: int = 0
    rewrapped: int = 0
    already_current: int = 0
    quarantined: int = 0
    minted: int = 0
    shredded: int = 0
    kms_calls: int = 0
    batches: int = 0
    takeovers: int = 0
    shards: int = 0
    shards_done: int = 0
    seconds: float | None = None
    rate: float | None = None
    seconds_left: float | None = None

    @property
    def name(self) -> str:
        """Such as "renew 1"."""
        return self.stage.value if self.stage == Stage.MOVE else f"{self.stage.value} {self.level}"

    @property
    def fraction(self) -> float:
        """How much of it is done, 0 to 1."""
        if self.state == DONE:
            return 1.0
        if self.stage == Stage.SHRED or not self.expected:
            return self.shards_done / self.shards if self.shards else 0.0
        return min(self.seen / self.expected, 0.999)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"name": self.name, "fraction": round(self.fraction, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackView:
    """A repack as an operator wants to see it."""

    repack: Repack
    environment: Environment
    now: float
    stages: list[StageView]
    seconds: float
    seconds_left: float | None
    kms_calls: int
    takeovers: int
    block: dict[str, Any] | None
    quarantine: list[dict[str, Any]]
    timeline: list[dict[str, Any]]

    def total(self, name: str) -> int:
        """The sum of one count over all stages."""
        return sum(getattr(stage, name) for stage in self.stages)

    @property
    def keys_per_second(self) -> float:
        """Keys rewrapped a second, over the whole run."""
        return self.total("rewrapped") / max(self.seconds, SHORTEST)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        repack = self.repack
        return repack_json(repack, str(self.environment)) | {
            "meaning": MEANING[repack.state],
            "stages": [stage.as_json() for stage in self.stages],
            "seconds": round(self.seconds, 3),
            "seconds_left": self.seconds_left,
            "keys_per_second": round(self.keys_per_second, 1),
            **{name: self.total(name) for name in ("seen", "rewrapped", "already_current", "minted", "shredded")},
            "quarantined": len(self.quarantine),
            "kms_calls": self.kms_calls,
            "takeovers": self.takeovers,
            "block": self.block,
            "quarantine": self.quarantine,
            "timeline": self.timeline,
        }


def repack_json(repack: Repack, environment: str) -> dict[str, Any]:
    """What a list of repacks says of each."""
    return {
        "id": str(repack.repack_id),
        "environment": environment,
        "environment_id": str(repack.environment_id),
        "mode": repack.mode.value,
        "state": repack.state.value,
        "stage": repack.stage.value,
        "level": repack.level,
        "levels": repack.levels,
        "source": repack.source_key,
        "target": repack.target_key,
        "actor": repack.actor,
        "created_at": repack.created_at,
        "move_closed_at": repack.move_closed_at,
        "ended_at": repack.ended_at,
    }


# Progress ---------------------------------------------------------------------------------------------------------


def stage_views(parts: Iterable[Progress], *, now: float, running: bool = True) -> list[StageView]:
    """The sums of shards by stage and level, of one repack or of several, with rate and time left."""
    groups: dict[tuple[Stage, int], list[Progress]] = {}
    for part in parts:
        groups.setdefault((part.stage, part.level), []).append(part)
    return [_stage_view(group, now=now, running=running) for group in groups.values()]


def _stage_view(group: Sequence[Progress], *, now: float, running: bool) -> StageView:
    def total(name: str) -> int:
        return sum(getattr(part, name) for part in group)

    expected, seen, is_done = total("expected"), total("seen"), total("done") == total("shards")
    started = min((part.started_at for part in group if part.started_at is not None), default=None)
    reached = _last(group, "finished_at") if is_done else (now if running else _last(group, "checkpointed_at"))
    seconds = max(reached - started, 0.0) if started is not None and reached is not None else None
    rate = seen / max(seconds, SHORTEST) if seconds is not None and seen else None
    left = max(expected - seen, 0) / rate if rate and running and not is_done else None
    names = ("rewrapped", "already_current", "quarantined", "minted", "shredded", "kms_calls", "batches", "takeovers")
    return StageView(
        stage=group[0].stage,
        level=group[0].level,
        state=DONE if is_done else RUNNING,
        expected=max(expected, seen),
        seen=seen,
        shards=total("shards"),
        shards_done=total("done"),
        seconds=seconds,
        rate=rate,
        seconds_left=left,
        **{name: total(name) for name in names},
    )


def _last(group: Sequence[Progress], name: str) -> float | None:
    return max((at for part in group if (at := getattr(part, name)) is not None), default=None)


def outline(mode: Mode, counts: Mapping[str, Mapping[int, int]]) -> list[StageView]:
    """Every stage that lies before a repack of `counts` keys (see `count_keys`), all of them waiting."""
    wrapping, data = counts.get("wrapping", {}), counts.get("data", {})
    roots = wrapping.get(1, 0) + data.get(1, 0)
    stages = [StageView(stage=Stage.MOVE, level=1, state=WAITING, expected=roots)]
    if mode == Mode.SHALLOW:
        return stages
    levels = sorted(wrapping)
    stages += [
        StageView(stage=Stage.RENEW, level=level, state=WAITING, expected=data.get(level + 1, 0)) for level in levels
    ]
    return stages + [
        StageView(stage=Stage.SHRED, level=level, state=WAITING, expected=wrapping[level]) for level in reversed(levels)
    ]


def laid_over(ahead: Sequence[StageView], seen: Sequence[StageView]) -> list[StageView]:
    """The stages that are known, and those that still lie ahead, in the order in which they happen."""
    known = {(stage.stage, stage.level): stage for stage in seen}
    order = [known.pop((stage.stage, stage.level), stage) for stage in ahead]
    return order + list(known.values())


def time_left(stages: Sequence[StageView]) -> float | None:
    """Seconds until the last key is rewrapped, at the rate of the keys so far; None while there is no rate."""
    rates = [stage.rate for stage in stages if stage.stage == Stage.RENEW and stage.rate]
    rates = rates or [stage.rate for stage in stages if stage.rate]
    left = sum(stage.expected - stage.seen for stage in stages if stage.state != DONE and stage.stage != Stage.SHRED)
    if not left:
        return 0.0
    return left / rates[-1] if rates else None


LEAST_SPREAD, MOST_SPREAD = 0.1, 0.5
"""How far off the middle a time left may be at least and at most, as a part of it: less would be a false promise."""

ENOUGH_SHARDS = 4
"""Finished shards that say something about how much their rates differ."""


def time_left_range(stages: Sequence[StageView], rows: Iterable[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Seconds left, from and to: the time left, spread as the rates of finished shards (rows as stored) are."""
    middle = time_left(stages)
    if middle is None:
        return None
    rates = sorted(
        row["seen"] / (row["finished_at"] - row["started_at"])
        for row in rows
        if row["seen"] and row["started_at"] and row["finished_at"] and row["finished_at"] > row["started_at"]
    )
    spread = MOST_SPREAD
    if len(rates) >= ENOUGH_SHARDS:
        slow, fast = rates[len(rates) // 4], rates[-1 - len(rates) // 4]
        spread = min(max((fast - slow) / (fast + slow), LEAST_SPREAD), MOST_SPREAD)
    return middle * (1 - spread), middle * (1 + spread)


# One repack -------------------------------------------------------------------------------------------------------


def view_repack(connection: Connection, repack: Repack, *, ahead: Sequence[StageView] = ()) -> RepackView:
    """Everything there is to say about a repack. `ahead`: its `outline`, which is counted once and not here."""
    now = read_clock(connection)
    parts = shards.progress(connection, repack.id)
    stages = laid_over(ahead if repack.is_open else (), stage_views(parts, now=now, running=repack.is_running))
    return RepackView(
        repack=repack,
        environment=environments.get_environment(connection, repack.environment),
        now=now,
        stages=stages,
        seconds=(repack.ended_at or now) - repack.created_at,
        seconds_left=time_left(stages) if repack.is_running else None,
        kms_calls=repack.kms_calls + sum(part.kms_calls for part in parts),
        takeovers=sum(part.takeovers for part in parts),
        block=_block(repack),
        quarantine=_quarantine(connection, repack),
        timeline=list(timeline(connection, repack.repack_id)),
    )


_REMEDIES: dict[str, str] = {
    **{cause.value: remedy for cause, remedy in REMEDIES.items()},
    LockCause.REVOKED: "Once the customer gives the main key back: `keyrepack main-key restore`.",
    LockCause.RESTRICTED: "See `keyrepack doctor` for its main key; it goes on when that is usable again.",
    LockCause.LOST: "The main key is deleted; `keyrepack certificate --loss` names what is lost.",
    DatabaseFull.code: "Make room on the database's disk; it goes on by itself.",
}
"""By cause. A newer program that runs beside this one may know others."""


def _block(repack: Repack) -> dict[str, Any] | None:
    if repack.block_side is None or repack.block_cause is None:
        return None
    return {
        "side": repack.block_side,
        "cause": repack.block_cause,
        "main_key": {"source": repack.source_key, "target": repack.target_key}.get(repack.block_side),
        "detail": repack.block_detail,
        "remedy": _REMEDIES.get(repack.block_cause, "See its detail."),
        "since": repack.blocked_at,
        "looks_again_at": repack.probe_at,
        "probes": repack.probes,
    }


def _quarantine(connection: Connection, repack: Repack) -> list[dict[str, Any]]:
    """Its keys that are set aside, each with its reason and the version that it holds back."""
    if repack.is_open:
        rows = quarantine.list_quarantine(connection, repack=repack.id)
    else:
        rows = quarantine.list_quarantine(connection, environment=repack.environment)
        rows = [row for row in rows if row["repack"] == repack.id]
    return [
        {
            "key": str(row["key_id"]),
            "kind": row["kind"],
            "stage": row["stage"],
            "reason": row["reason"],
            "holds_back": str(row["parent_key_id"]) if row["parent_key_id"] else repack.source_key,
            "version": row["parent_version"],
            "at": row["created_at"],
        }
        for row in rows
    ]


def timeline(connection: Connection, repack_id: UUID) -> Iterable[dict[str, Any]]:
    """A repack's audit records, oldest first; a certificate is named, not repeated."""
    for record in audit.records(connection, repack_id=repack_id):
        facts = json.loads(record.facts)
        facts.pop("certificate", None)
        yield {"seq": record.seq, "at": record.at, "action": record.action, "actor": record.actor, "facts": facts}


def find_any_repack(connection: Connection, reference: str) -> Repack:
    """By its id, or by an environment (workspace/name or id): then its newest. Raises NotFound."""
    if "/" not in reference:
        try:
            return repacks.find_repack(connection, reference)
        except NotFound as error:
            try:
                environment = environments.find_environment(connection, reference)
            except NotFound:
                raise error from None
    else:
        environment = environments.find_environment(connection, reference)
    newest = repacks.latest_repack(connection, environment.id)
    if newest is None:
        raise NotFound("repack of", environment, "Start one with `keyrepack main-key replace`.")
    return newest


def legal_actions(repack: Repack) -> list[str]:
    """What an operator may do to it now, by the command's name."""
    targets = {target for source, target in LEGAL if source == repack.state}
    actions = ["pause"] if RepackState.PAUSED in targets else []
    if repack.state in {RepackState.PAUSED, RepackState.BLOCKED}:
        actions.append("resume")
    if repack.move_closed_at is None and RepackState.ABORTED in targets:
        actions.append("abort")
    if repack.stage != Stage.MOVE and RepackState.STOPPED in targets:
        actions.append("stop")
    if repack.state == RepackState.FINISHED_WITH_QUARANTINE:
        actions.append("retry")
    return actions


# Environments -----------------------------------------------------------------------------------------------------


def view_environment(connection: Connection, environment: Environment, *, count: bool = True) -> dict[str, Any]:
    """An environment with its tops, its newest repack and, where wanted, its keys by kind and level."""
    tops = environments.all_tops(connection, environment.id)
    newest = repacks.latest_repack(connection, environment.id)
    view: dict[str, Any] = {
        "id": str(environment.environment_id),
        "workspace": environment.workspace,
        "name": environment.name,
        "main_key": environments.live_tops(connection, environment.id)[0].main_key,
        "lock": environment.lock_cause,
        "lock_detail": environment.lock_detail,
        "locked_at": environment.locked_at,
        "created_at": environment.created_at,
        "repack": repack_json(newest, str(environment)) if newest else None,
    }
    if count:
        counts = environments.count_keys(connection, environment.id)
        view["keys"] = {kind: {str(level): keys for level, keys in levels.items()} for kind, levels in counts.items()}
        view["tops"] = [{name: top[name] for name in top if name != "environment"} for top in tops]
    return view
