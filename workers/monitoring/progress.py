"""Progress of repacks, stage by stage: how much is done, at which rate, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from schemas.states import Mode, Stage
from workers.store.shards import Progress

WAITING, RUNNING, DONE = "waiting", "running", "done"
"""A stage that is not planned yet, one that is walked, one that has been walked."""

SHORTEST = 0.05
"""Seconds a rate is measured over at least: less is noise."""


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
        """Return a name such as "renew 1"."""
        return self.stage.value if self.stage == Stage.MOVE else f"{self.stage.value} {self.level}"

    @property
    def fraction(self) -> float:
        """Return how much of it is done, 0 to 1."""
        if self.state == DONE:
            return 1.0
        if self.stage == Stage.SHRED or not self.expected:
            return self.shards_done / self.shards if self.shards else 0.0
        return min(self.seen / self.expected, 0.999)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"name": self.name, "fraction": round(self.fraction, 4)}


def stage_views(parts: Iterable[Progress], *, now: float, running: bool = True) -> list[StageView]:
    """Sum up shards by stage and level, of one repack or of several, with rate and time left."""
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
    """List every stage that lies before a repack of `counts` keys (see `count_keys`), all of them waiting."""
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
    """Merge the stages that are known with those that still lie ahead, in the order in which they happen."""
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
