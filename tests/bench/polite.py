"""Polite: many repacks within a budget of KMS calls, while a service goes on reading keys, and the KMS says "too fast".

Calls are counted by the simulator, second by second; a read is one Decrypt, for nothing is cached.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from rich.table import Table

from tests.bench import fair
from tests.bench.outcome import Outcome
from tests.bench.stack import Bench, running_bench
from workers.compose import build_services
from workers.keyring.keyring import Keyring
from workers.runtime.settings import Settings
from workers.store.environments import Environment

RATE, BURST = 15, 10
"""Few enough that two workers would make several times as many."""

READS_PER_SECOND = 5
SECONDS_BEFORE_THROTTLING = 3
THROTTLED = 6
"""Answers that are "too fast": each call is tried three times."""

EXTRA = {
    "KEYREPACK_KMS_CALLS_PER_SECOND": str(RATE),
    "KEYREPACK_KMS_BURST": str(BURST),
    "KEYREPACK_CACHE_TTL": "0",
    "KEYREPACK_CACHE_SIZE": "0",
}
MOST_TIMES_SLOWER = 5.0
"""A live read's p99 beside the repacks, in times of what it is alone: the simulator has one core for all of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--polite", type=int, default=30, help="environments repacked within the budget (30)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Read keys alone; then beside repacks that would like more calls than there are; throttle in the middle."""
    with running_bench("postgresql", extra=EXTRA) as bench:
        environments = fair.seed_small(bench, "polite", asked.polite)
        read_from = _on_aws(bench)
        with _Reader(read_from) as alone:
            time.sleep(4)
        with _Reader(read_from) as beside, _Watch(bench) as watch:
            fair.repack_all(bench, environments, str(bench.simulator.create_main_key()))
    allowed = RATE + BURST
    figures = {
        "budget_calls_per_second": RATE,
        "burst": BURST,
        "most_calls_in_a_second": max(watch.calls),
        "mean_calls_per_second": round(statistics.mean(watch.calls), 1),
        "lowest_rate_after_throttling": round(min(watch.rates), 1),
        "live_ms_alone": alone.percentiles(),
        "live_ms_beside": beside.percentiles(),
        "live_failed": alone.failed + beside.failed,
    }
    missed = []
    if max(watch.calls) > allowed * 1.1:  # a second by our clock is not quite one by the simulator's
        missed.append(f"{max(watch.calls)} calls in a second, of {allowed} allowed")
    if min(watch.rates) > RATE * 0.6:
        missed.append("throttling did not halve the rate")
    if beside.percentiles()[1] > alone.percentiles()[1] * MOST_TIMES_SLOWER:
        missed.append("live reads waited for repacks")
    return Outcome(figures={"polite": figures}, table=_table(figures), missed=missed)


def _on_aws(bench: Bench) -> tuple[Environment, UUID]:
    """An environment on a key of its own in AWS, and a key of it to read."""
    keyring = Keyring(bench.services)
    key = str(bench.simulator.create_main_key())
    environment = keyring.create_environment("live", "reads", main_key=key, actor="bench")
    return environment, keyring.create_data_key(environment.environment_id, None).key_id


@dataclass(slots=True)
class _Reader:
    """Reads one key again and again, in a thread; each read is a call to the KMS."""

    what: tuple[Environment, UUID]
    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _Reader:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(30)

    def percentiles(self) -> list[float]:
        """p50 and p99."""
        cut = statistics.quantiles(self.milliseconds, n=100)
        return [round(cut[49], 1), round(cut[98], 1)]

    def _read(self) -> None:
        services = build_services(Settings())
        keyring = Keyring(services)
        try:
            keyring.unwrap(self.what[1])  # opens connections
            while not self._stop.wait(1 / READS_PER_SECOND):
                started = time.perf_counter()
                try:
                    keyring.unwrap(self.what[1])
                except Exception:
                    self.failed += 1
                self.milliseconds.append((time.perf_counter() - started) * 1000)
        finally:
            services.close()


@dataclass(slots=True)
class _Watch:
    """Calls that reached the simulator, second by second, and the budget's rate."""

    bench: Bench
    calls: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(30)

    def _look(self) -> None:
        services, simulator = self.bench.services, self.bench.simulator
        before = int(simulator.calls()["total"])
        while not self._stop.wait(1.0):
            now = int(simulator.calls()["total"])
            self.calls.append(now - before)
            before = now
            if len(self.calls) == SECONDS_BEFORE_THROTTLING:
                simulator.inject("throttle", operation="Encrypt", count=THROTTLED)  # readers make none of these
            self.rates += [left.rate for left in services.loop.run(services.kms.budget_left())]


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"A budget of {RATE} KMS calls a second, {BURST} at once")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("most calls in a second / on average", f"{figures['most_calls_in_a_second']} / "
                  f"{figures['mean_calls_per_second']}")  # fmt: skip
    table.add_row("lowest rate after throttling", str(figures["lowest_rate_after_throttling"]))
    table.add_row("a live read, alone: p50 / p99 ms", " / ".join(str(each) for each in figures["live_ms_alone"]))
    table.add_row("beside the repacks: p50 / p99 ms", " / ".join(str(each) for each in figures["live_ms_beside"]))
    return table
