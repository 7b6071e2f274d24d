"""Read model of one repack, shared by the CLI and the dashboard. Read-only.

Rates are keys a second, times seconds since the epoch by the database's clock; None is "not known yet".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schemas.states import LockCause, RepackState
from workers.errors import REMEDIES, DatabaseFull
from workers.monitoring.progress import SHORTEST, StageView, laid_over, stage_views, time_left
from workers.store import audit, environments, quarantine, shards
from workers.store.database import Connection
from workers.store.environments import Environment
from workers.store.repacks import Repack
from workers.store.types import read_clock

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
"""What each state means to an operator who has to decide what to do."""


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
        """Return the sum of one count over all stages."""
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
    """Return what a list of repacks says of each."""
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


# One repack -------------------------------------------------------------------------------------------------------


def view_repack(connection: Connection, repack: Repack, *, ahead: Sequence[StageView] = ()) -> RepackView:
    """Read everything there is to say about a repack. `ahead`: its `outline`, which is counted once and not here."""
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
    """List its keys that are set aside, each with its reason and the version that it holds back."""
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
    """Yield a repack's audit records, oldest first; a certificate is named, not repeated."""
    for record in audit.records(connection, repack_id=repack_id):
        facts = json.loads(record.facts)
        facts.pop("certificate", None)
        yield {"seq": record.seq, "at": record.at, "action": record.action, "actor": record.actor, "facts": facts}


# Environments -----------------------------------------------------------------------------------------------------
