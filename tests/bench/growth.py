"""Growth: the same deep repack over ten times the keys, and again: time, memory, and what is not the walk itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.curve import Point, draw_curve
from tests.bench.outcome import Outcome, console
from tests.bench.phases import DEBUG, read_phases
from tests.bench.stack import Bench, running_bench, seconds_of
from workers.integrity.verify import verify_environment
from workers.store.repacks import Repack

KEYS_BELOW_A_ROOT = 10_000
FEWEST_ROOTS = 10
"""Each root costs calls to the KMS: their number grows with the data keys, as hours go by."""

OVERHEAD = 0.05
"""Most of the workers' time that may go into plan and close, at the largest size."""

SLOWER = 0.8
"""The largest size's rate may fall to this share of the best one's."""

MORE_MEMORY = 1.15
"""A worker's peak may rise to this multiple over the largest tenfold step."""

OVERHEADS = ("plan", "shred")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--sizes", type=_sizes, default=[10_000, 100_000, 1_000_000], help="data keys, growing")
    parser.add_argument("--growth-databases", default="sqlite,postgresql", help="of the growth bench")
    parser.add_argument("--curve", type=Path, help="where to draw the curve (SVG)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Each size in an installation of its own: no memory of the smaller one."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in asked.growth_databases.split(","):
        found[kind] = []
        for keys in asked.sizes:
            with running_bench(kind, extra=DEBUG) as bench:
                found[kind].append(_measured(bench, keys))
            console.print(f"[bold]{kind}[/]: {found[kind][-1]}")
    if asked.curve is not None:
        asked.curve.write_text(draw_curve({kind: [_point(row) for row in rows] for kind, rows in found.items()}))
    missed = [sentence for kind, rows in found.items() for sentence in _missed(kind, rows)]
    return Outcome(figures={"growth": found}, table=_table(found), missed=missed)


def _measured(bench: Bench, keys: int) -> dict[str, Any]:
    """The second of two repacks: the first one's workers load and compile what they need."""
    roots = max(FEWEST_ROOTS, keys // KEYS_BELOW_A_ROOT)
    environment = bench.seed("main", data_keys=keys, roots=roots)
    last: Repack | None = None
    for _ in range(2):
        bench.replace(environment, str(bench.simulator.create_main_key()))
        last = bench.wait_for_end(environment, after=last)
    assert last is not None
    peak = bench.worker_peak_mb()
    for name in bench.workers:
        bench.supervisor.stop_child(name)
    phases, wall = read_phases(bench, last), seconds_of(last)
    report = verify_environment(bench.services, environment)
    return {
        "data_keys": keys,
        "roots": roots,
        "seconds": round(wall, 2),
        "keys_per_second": round(keys / wall),
        "worker_peak_mb": round(peak, 1),
        "plan_and_close": round(sum(phases[phase] for phase in OVERHEADS) / (wall * len(bench.workers)), 4),
        "broken": report.broken,
        "stale": report.stale,
    }


def _missed(kind: str, rows: list[dict[str, Any]]) -> list[str]:
    largest, sentences = rows[-1], []
    if any(row["broken"] or row["stale"] for row in rows):
        sentences.append(f"{kind}: keys that do not open, or were left behind")
    if largest["keys_per_second"] < SLOWER * max(row["keys_per_second"] for row in rows):
        sentences.append(f"{kind}: {largest['data_keys']:,} keys are slower than fewer: not linear")
    if len(rows) > 1 and largest["worker_peak_mb"] > MORE_MEMORY * rows[-2]["worker_peak_mb"]:
        sentences.append(f"{kind}: memory grows with the keys")
    if largest["plan_and_close"] > OVERHEAD:
        sentences.append(f"{kind}: plan and close take {largest['plan_and_close']:.1%} of the time")
    return sentences


def _point(row: dict[str, Any]) -> Point:
    return Point(keys=row["data_keys"], seconds=row["seconds"], megabytes=row["worker_peak_mb"])


def _sizes(text: str) -> list[int]:
    return sorted(int(size) for size in text.split(","))


def _table(found: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(title="Growth: a deep repack, two workers, durable commits")
    names = ("data_keys", "seconds", "keys_per_second", "worker_peak_mb", "plan_and_close")
    table.add_column("")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for kind, rows in found.items():
        for row in rows:
            table.add_row(kind, *(f"{row[name]:,}" for name in names))
    return table
