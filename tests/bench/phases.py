"""Phases: where the workers' time goes in a deep repack, with one worker process and with two."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

from rich.table import Table

from tests.bench.outcome import Outcome, console
from tests.bench.stack import Bench, running_bench, seconds_of
from workers.store.repacks import Repack

PHASES = (
    "claim", "plan", "move", "mint", "read", "open", "unwrap", "wrap", "verify", "write", "commit", "shred", "other",
    "idle",
)  # fmt: skip
"""In the order of a repack. `open` is the wrapping keys' share of unwrap; `other` what no lap names."""

WHOLE_STAGES = {"move", "shred"}
"""Stages that are told as one phase."""

WORKERS = (1, 2)
DEBUG = {"KEYREPACK_LOG_LEVEL": "debug"}
"""The events that carry a stopwatch's seconds are logged at this level."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen, beside the repack bench's own."""
    parser.add_argument("--phase-keys", type=int, default=200_000, help="data keys of the phases bench (200,000)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Each database, with each number of workers."""
    found: dict[str, dict[str, Any]] = {}
    for kind in asked.databases.split(","):
        for workers in WORKERS:
            console.print(f"[bold]{kind}[/], {workers} worker processes: {asked.phase_keys:,} data keys")
            with running_bench(kind, workers=workers, extra=DEBUG) as bench:
                found[f"{kind} {workers}"] = _measured(bench, asked.phase_keys, asked.roots)
    return Outcome(figures={"phases": found}, table=_table(found, asked.phase_keys))


def _measured(bench: Bench, keys: int, roots: int) -> dict[str, Any]:
    """The second of two repacks: the first one's workers load and compile what they need."""
    environment = bench.seed("main", data_keys=keys, roots=roots)
    last: Repack | None = None
    for _ in range(2):
        bench.replace(environment, str(bench.simulator.create_main_key()))
        last = bench.wait_for_end(environment, after=last)
    assert last is not None
    for name in bench.workers:
        bench.supervisor.stop_child(name)  # it ends its slice, and has then told all of it
    seconds = read_phases(bench, last)
    wall = seconds_of(last)
    seconds["idle"] = max(0.0, wall * len(bench.workers) - sum(seconds.values()))
    return {
        "keys_per_second": round(keys / wall),
        "microseconds_per_key": {phase: round(seconds[phase] / keys * 1e6, 2) for phase in PHASES if phase in seconds},
    }


def read_phases(bench: Bench, repack: Repack) -> Counter[str]:
    """Seconds of all workers by phase, as their logs tell."""
    found: Counter[str] = Counter()
    for name in bench.workers:
        for line in bench.supervisor.log_file(name).read_text().splitlines():
            if f'"repack": "{repack.repack_id}"' in line and '"seconds"' in line:
                event = json.loads(line)
                found.update(_phases_of(event.get("stage"), event["seconds"]))
    return found


def _phases_of(stage: str | None, seconds: dict[str, float]) -> Counter[str]:
    """One event's seconds; a slice's own walks are told by their shards."""
    if stage in WHOLE_STAGES:
        return Counter({stage: sum(seconds.values())})
    found: Counter[str] = Counter()
    for phase, spent in seconds.items():
        if phase != "walk":
            found[phase if phase in PHASES else "other"] += spent
    return found


def _table(found: dict[str, dict[str, Any]], keys: int) -> Table:
    table = Table(title=f"Where the time of a deep repack of {keys:,} data keys goes: µs a key, of all workers")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for phase in PHASES:
        table.add_row(phase, *(str(one["microseconds_per_key"].get(phase, "")) for one in found.values()))
    table.add_row("keys per second", *(f"{one['keys_per_second']:,}" for one in found.values()))
    return table
