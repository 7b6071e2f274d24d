"""The text of `/metrics`: an overview in Prometheus' words. Base units, words of the code as labels, no tenant's name.

Counts are the database's own, summed over all processes there ever were: it makes no difference which process is
asked, and one is enough. What is unknown is left out, but for ages that alerts watch: what never happened is +Inf old.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from schemas.states import OPEN, LockCause
from workers.errors import DatabaseFailed
from workers.monitoring.overview import Overview
from workers.runtime.counters import (
    BATCH_SECONDS,
    BEYOND,
    BOUNDS,
    BUCKET,
    KMS_CALLS,
    KMS_SECONDS,
    LEASE_LOSSES,
    LOCK_NOTICE_SECONDS,
    SUM,
)
from workers.runtime.version import VERSION
from workers.store.counters import Key
from workers.store.queries.overview import SHARD_STATES

PREFIX = "keyrepack_"


class OverviewMetrics(Collector):
    """Looks when it is asked. A database that is away is said to be so."""

    def __init__(self, read: Callable[[], Overview]) -> None:
        self._read, self._one_at_a_time = read, threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """See Collector.collect."""
        yield InfoMetricFamily(PREFIX + "build", "This program's version.", {"version": VERSION})
        try:
            with self._one_at_a_time:
                overview = self._read()
        except DatabaseFailed:
            yield _gauge("database_up", "Whether the database answers.", 0)
            return
        yield _gauge("database_up", "Whether the database answers.", 1)
        yield _gauge("broker_up", "Whether the broker answers.", overview.broker.answers)
        for part in (_keys, _repacks, _queues, _processes, _main_keys, _budgets, _promises, _timings):
            yield from part(overview)


def make_page(read: Callable[[], Overview]) -> Callable[[str], tuple[str, bytes]]:
    """Make a function from an Accept header to (content type, text)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OverviewMetrics(read))

    def page(accept: str) -> tuple[str, bytes]:
        encode, content_type = choose_encoder(accept)
        return content_type, encode(registry)

    return page


def _keys(overview: Overview) -> Iterator[Metric]:
    outcomes = overview.outcomes
    yield _counters("keys", "Keys that repacks have seen, by what became of them.", "outcome", {
        "rewrapped": outcomes.rewrapped,
        "already_current": outcomes.already_current,
        "quarantined": outcomes.quarantined,
    })  # fmt: skip
    yield _counters("wrapping_versions", "Versions of wrapping keys, by what was done with them.", "act", {
        "minted": outcomes.minted, "shredded": outcomes.shredded,
    })  # fmt: skip
    yield _counter("batches", "Transactions that rewrapped keys.", outcomes.batches)
    yield _counter("shard_takeovers", "Shards taken over from a worker whose lease had run out.", outcomes.takeovers)
    yield _gauge("keys_per_second", "Keys rewrapped a second, over the last minute.", overview.rate or 0.0)
    remaining = GaugeMetricFamily(PREFIX + "keys_remaining", "Keys not seen yet.", labels=["stage", "level"])
    for stage in overview.stages:
        remaining.add_metric([stage.stage.value, str(stage.level)], stage.remaining)
    yield remaining
    yield _gauges("quarantined_keys", "Keys that are set aside now.", "reason", overview.quarantine)


def _repacks(overview: Overview) -> Iterator[Metric]:
    states = dict.fromkeys(sorted(state.value for state in OPEN), 0) | dict(overview.repacks)
    yield _gauges("repacks", "Open repacks.", "state", states)
    shards = {state: sum(stage.shards[state] for stage in overview.stages) for state in SHARD_STATES}
    yield _gauges("shards", "Shards of open repacks.", "state", shards)
    blocked = overview.now - overview.blocked_since if overview.blocked_since is not None else 0.0
    yield _gauge("repack_blocked_seconds", "Since the repack was blocked that has been so longest.", blocked)
    yield _gauge("environments", "Environments.", overview.environments)
    locked = dict.fromkeys((lock.value for lock in LockCause), 0) | dict(overview.locked)
    yield _gauges("locked_environments", "Environments whose data is locked.", "cause", locked)


def _queues(overview: Overview) -> Iterator[Metric]:
    queues = overview.queues
    numbers: dict[str, tuple[str, Callable[[Any], float | None]]] = {
        "queue_messages": ("Messages that wait.", lambda queue: queue.depth),
        "queue_unacknowledged_messages": ("Messages taken and not done.", lambda queue: queue.unacknowledged),
        "queue_oldest_message_seconds": ("Age of the message that waits longest.", lambda queue: queue.oldest_seconds),
        "queue_consumers": ("Processes that serve it.", lambda queue: queue.consumers),
        "canary_age_seconds": (
            "Since a canary came out of the queue.",
            lambda queue: inf if queue.canary_seconds is None else queue.canary_seconds,
        ),
        "canary_wait_seconds": ("How long the last one was in it.", lambda queue: queue.canary_wait_seconds),
    }
    for name, (text, read) in numbers.items():
        yield _gauges(name, text, "queue", {queue.name: read(queue) for queue in queues})
    taken = {queue.name: queue.taken for queue in queues}
    yield _counters("queue_messages_taken", "Messages that workers took.", "queue", taken)
    yield _gauge("outbox_events", "Outgoing events that wait to be published.", overview.outbox.waiting)
    oldest = overview.outbox.oldest_at
    age = 0.0 if oldest is None else overview.now - oldest
    yield _gauge("outbox_oldest_seconds", "Age of the outgoing event that waits longest.", age)


def _processes(overview: Overview) -> Iterator[Metric]:
    silent = sum(worker.is_silent for worker in overview.workers)
    counts = {"heard": len(overview.workers) - silent, "silent": silent}
    yield _gauges("workers", "Worker processes of the last hour, by whether they are heard of.", "state", counts)
    late = {
        schedule.job: inf if schedule.overdue_seconds is None else schedule.overdue_seconds
        for schedule in overview.schedules
    }
    yield _gauges("schedule_overdue_seconds", "How long a job of the clock should have run by now.", "job", late)
    last = {schedule.job: schedule.last_at for schedule in overview.schedules}
    yield _gauges("schedule_last_run_timestamp_seconds", "When it last ran.", "job", last)
    yield _counter("lease_losses", "Batches that were void: their shard was another worker's by then.",
                   overview.counts.get((LEASE_LOSSES, ()), 0.0))  # fmt: skip


def _main_keys(overview: Overview) -> Iterator[Metric]:
    poll, due = overview.poll, overview.poll.most_overdue_at
    yield _gauge("main_keys", "Main keys in use.", poll.keys)
    yield _gauges("main_keys_unusable", "Of these, the ones refused or silent.", "cause", poll.by_cause)
    overdue = 0.0 if due is None else max(0.0, overview.now - due)
    yield _gauge("poll_overdue_seconds", "How late the look at a main key is that is most overdue.", overdue)
    looked = poll.last_looked_at or 0.0
    yield _gauge("poll_last_look_timestamp_seconds", "When a main key was last looked at; 0: never.", looked)
    calls = CounterMetricFamily(
        PREFIX + "kms_calls", "Operations on main keys, by how they ended.", labels=["kms", "operation", "code"]
    )
    for (name, labels), value in sorted(overview.counts.items()):
        if name == KMS_CALLS:
            calls.add_metric(labels, value)
    yield calls


def _budgets(overview: Overview) -> Iterator[Metric]:
    """Yield the scarcest budget of each kind of KMS: an account may be a tenant's, and is not named."""
    kinds = sorted({budget.scope.partition(":")[0] for budget in overview.budgets})
    ratio = GaugeMetricFamily(
        PREFIX + "kms_budget_ratio", "Rate of KMS calls allowed now, of the one that was set.", labels=["kms"]
    )
    left = GaugeMetricFamily(PREFIX + "kms_budget_calls", "KMS calls that may be made at once.", labels=["kms", "use"])
    for kind in kinds:
        mine = [budget for budget in overview.budgets if budget.scope.partition(":")[0] == kind]
        ratio.add_metric([kind], min(budget.rate / budget.full_rate for budget in mine))
        left.add_metric([kind, "background"], min(budget.background for budget in mine))
        left.add_metric([kind, "live"], min(budget.live for budget in mine))
    yield ratio
    yield left


def _promises(overview: Overview) -> Iterator[Metric]:
    audit = overview.audit
    if audit is not None:
        yield _gauge("audit_whole", "Whether the audit chain was whole when last followed.", audit.whole)
        yield _gauge("audit_records", "Records in it.", audit.records)
    checked = 0.0 if audit is None else audit.checked_at
    yield _gauge("audit_verified_timestamp_seconds", "When it was last followed; 0: never.", checked)


def _timings(overview: Overview) -> Iterator[Metric]:
    for name, text, labels in (
        (KMS_SECONDS, "How long operations on main keys took.", ["kms", "operation"]),
        (BATCH_SECONDS, "From reading a batch to its commit.", ["stage"]),
        (LOCK_NOTICE_SECONDS, "From the commit of a lock to a process that knows of it.", []),
    ):
        family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
        for histogram in _histograms(overview.counts, name):
            family.add_metric(histogram.labels, buckets=histogram.buckets, sum_value=histogram.total)
        yield family


@dataclass(frozen=True, slots=True, kw_only=True)
class _Histogram:
    labels: Sequence[str]
    buckets: Sequence[tuple[str, float]]  # (bound, how many were no larger)
    total: float


def _histograms(counts: Mapping[Key, float], name: str) -> Iterator[_Histogram]:
    """Yield a histogram for each set of labels that was observed."""
    for (key, labels), total in sorted(counts.items()):
        if key != name + SUM:
            continue
        so_far, buckets = 0.0, []
        for bound in (*map(repr, BOUNDS[name]), BEYOND):
            so_far += counts.get((name + BUCKET, (*labels, bound)), 0.0)
            buckets.append((bound, so_far))
        yield _Histogram(labels=labels, buckets=buckets, total=total)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for word, value in values.items():
        if value is not None:
            family.add_metric([word], value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family
