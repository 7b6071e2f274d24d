"""The overview, as values: what the dashboard's first page, `keyrepack top` and the metrics show.

Times are seconds since the epoch by the database's clock; None is "not known".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from schemas.states import RepackState, Stage
from workers.broker.queue_depths import BrokerCounts
from workers.kms.rate_limit.budget import Left
from workers.store.audit_checks import AuditCheck
from workers.store.counters import Key
from workers.store.heartbeats import WorkerSeen
from workers.store.queries.overview import OutboxSum, Outcomes, PollSum, StageSum


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """One queue. `consumers` by the broker, or by the workers' own rows if the broker does not report it."""

    name: str
    depth: int | None
    unacknowledged: int | None
    oldest_seconds: float | None
    consumers: int | None
    taken: float  # messages, ever
    rate_in: float | None
    rate_out: float | None
    canary_seconds: float | None  # since the last one arrived; None: none ever did
    canary_wait_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker process. `is_silent`: it is not heard of; it was killed, is frozen, or cannot reach the database."""

    seen: WorkerSeen
    is_silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One job of the clock. `drift_seconds`: how much later than it should the last run came after the one before."""

    job: str
    every_seconds: float
    last_at: float | None
    next_at: float | None
    drift_seconds: float | None
    overdue_seconds: float | None  # None: it never ran


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """An open repack, in a line. `expected` and `seen` are those of its stage and level."""

    repack_id: UUID
    environment_id: UUID
    environment: str
    mode: str
    state: RepackState
    stage: Stage
    level: int
    levels: int
    expected: int
    seen: int
    shards: int
    shards_done: int
    seconds: float
    rate: float | None
    seconds_left: float | None  # of this stage and level
    block_side: str | None
    block_cause: str | None
    blocked_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockView:
    """A locked environment."""

    environment_id: UUID
    environment: str
    cause: str
    detail: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All of it, at `now`."""

    now: float
    environments: int
    broker: BrokerCounts
    queues: Sequence[QueueView]
    workers: Sequence[WorkerView]
    schedules: Sequence[ScheduleView]
    runs: Sequence[RunView]
    repacks: Mapping[str, int]  # open ones, by state
    blocked_since: float | None
    locks: Sequence[LockView]
    locked: Mapping[str, int]  # by cause
    outcomes: Outcomes
    stages: Sequence[StageSum]
    quarantine: Mapping[str, int]  # by reason
    outbox: OutboxSum
    poll: PollSum
    audit: AuditCheck | None
    rejected_at: float | None
    lock_notice_seconds: float | None  # the slowest process' last one, of the last hour
    rate: float | None  # keys rewrapped a second
    rates: Sequence[tuple[float, float]]  # of the last hour: (time, keys a second)
    counts: Mapping[Key, float]  # see `workers.runtime.counters`
    budgets: Sequence[Left] = ()  # of KMS calls, by account and region

    @property
    def remaining(self) -> int:
        """Keys that are planned and not seen yet."""
        return sum(stage.remaining for stage in self.stages)
