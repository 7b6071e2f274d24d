"""Repacks: keys/s through the real Celery path, two worker processes, beside the ceiling measured in the same run."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.table import Table

from tests.bench.ceiling import measure_ceiling
from tests.bench.outcome import Outcome, console
from tests.bench.stack import Bench, running_bench, seconds_of
from workers.store.environments import Environment
from workers.store.repacks import Repack
from workers.store.shards import Progress, progress
from workers.verify import verify_environment

RATIOS = {"postgresql": 0.65, "sqlite": 0.45}
"""Least share of the ceiling of one process that two workers reach, at 1,000,000 data keys."""

PEAK_MB = 150


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--keys", type=int, default=1_000_000, help="data keys (1,000,000)")
    parser.add_argument("--roots", type=int, default=100, help="hourly wrapping keys they hang from (100)")
    parser.add_argument("--databases", default="sqlite,postgresql", help="which, in this order")


def measure(asked: argparse.Namespace) -> Outcome:
    """Each database in turn, between two looks at the ceiling."""
    kinds = asked.databases.split(",")
    result: dict[str, Any] = {"data_keys": asked.keys, "roots": asked.roots, "workers": 2}
    ceilings = [measure_ceiling()]
    for kind in kinds:
        console.print(f"[bold]{kind}[/]: {asked.keys:,} data keys below {asked.roots} hourly keys")
        with running_bench(kind) as bench:
            result[kind] = _bench(bench, asked.keys, asked.roots)
        ceilings.append(measure_ceiling())
    ceiling = max(ceilings)
    result["ceiling_keys_per_second"] = round(ceiling)
    for kind in kinds:
        result[kind]["ratio_to_ceiling"] = round(result[kind]["keys_per_second"] / ceiling, 3)
    missed = [sentence for kind in kinds for sentence in _missed(kind, result[kind])]
    return Outcome(figures=result, table=_table(result, kinds), missed=missed)


def _missed(kind: str, found: dict[str, Any]) -> list[str]:
    sentences = [f"{kind}: {found[name]} keys {name}" for name in ("broken", "stale") if found[name]]
    if found["ratio_to_ceiling"] < RATIOS[kind]:
        sentences.append(f"{kind}: {found['ratio_to_ceiling']} of the ceiling, not {RATIOS[kind]}")
    if found["worker_peak_mb"] > PEAK_MB:
        sentences.append(f"{kind}: a worker took {found['worker_peak_mb']} MB, not {PEAK_MB}")
    return sentences


def _bench(bench: Bench, keys: int, roots: int) -> dict[str, Any]:
    """Seed, then: managed → AWS, AWS → AWS, a rotation, and once more with a worker killed in the middle."""
    started = time.monotonic()
    environment = bench.seed("main", data_keys=keys, roots=roots)
    console.print(f"  seeded in {time.monotonic() - started:.1f} s")
    rates, calls, last = [], [], None
    for _ in range(2):
        key = str(bench.simulator.create_main_key())
        bench.replace(environment, key)
        last = bench.wait_for_end(environment, after=last)
        rates.append(keys / seconds_of(last))
        calls.append(_kms_calls(bench, last))
        console.print(f"  deep: {rates[-1]:,.0f} keys/s, {calls[-1]} KMS calls, {last.state}")
    bench.simulator.rotate(last.target_key.removeprefix("aws-kms:"))
    bench.rotated(environment)
    last = bench.wait_for_end(environment, after=last)
    shallow = _kms_calls(bench, last)
    console.print(f"  shallow: {seconds_of(last):.2f} s, {shallow} KMS calls")
    peak = bench.worker_peak_mb()
    last, killed = _kill_in_mid_run(bench, environment, last, str(bench.simulator.create_main_key()))
    report = verify_environment(bench.services, environment)
    return {
        "keys_per_second": round(max(rates)),
        "rates": [round(rate) for rate in rates],
        "worker_peak_mb": round(peak, 1),
        "kms_calls_deep": calls,
        "kms_calls_shallow": shallow,
        "roots": roots + 4,
        "verified": report.verified,
        "broken": report.broken,
        "stale": report.stale,
        **killed,
    }


def _kill_in_mid_run(bench: Bench, environment: Environment, last: Repack, key: str) -> tuple[Repack, dict[str, Any]]:
    """One worker dies with a lease in its hands: how many keys were rewrapped, and how many leases taken over."""
    bench.replace(environment, key)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        repack = bench.latest(environment)
        if repack is not None and repack.id > last.id and any(part.stage == "renew" for part in _parts(bench, repack)):
            break
        time.sleep(0.01)
    bench.kill_worker(bench.workers[0])
    ended = bench.wait_for_end(environment, after=last)
    parts = [part for part in _parts(bench, ended) if part.stage == "renew"]
    console.print(
        f"  one worker killed: {seconds_of(ended):.1f} s, {sum(part.takeovers for part in parts)} leases taken over"
    )
    return ended, {
        "seconds_with_kill": round(seconds_of(ended), 2),
        "batches_repeated": sum(part.takeovers for part in parts),
        "keys_rewrapped_with_kill": sum(part.rewrapped for part in parts),
    }


def _parts(bench: Bench, repack: Repack) -> list[Progress]:
    with bench.services.database.read() as connection:
        return progress(connection, repack.id)


def _kms_calls(bench: Bench, repack: Repack) -> int:
    return repack.kms_calls + sum(part.kms_calls for part in _parts(bench, repack))


def _table(result: dict[str, Any], kinds: list[str]) -> Table:
    table = Table(title=f"Deep repack of {result['data_keys']:,} data keys, two workers, durable commits")
    table.add_column("")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for name in ("keys_per_second", "ratio_to_ceiling", "worker_peak_mb", "kms_calls_deep", "kms_calls_shallow",
                 "batches_repeated", "seconds_with_kill"):  # fmt: skip
        table.add_row(name.replace("_", " "), *(str(result[kind][name]) for kind in kinds))
    table.caption = f"ceiling {result['ceiling_keys_per_second']:,} keys/s: one process, no database"
    return table
