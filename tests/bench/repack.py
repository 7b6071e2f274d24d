"""Repacks: keys/s through the real Celery path, two worker processes, each beside the ceiling just before and after it.

A shared machine's speed drifts within minutes, so a run is compared with its own moment, and the median is told.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from statistics import mean, median
from typing import Any

from rich.table import Table

from tests.bench.ceiling import measure_ceiling
from tests.bench.outcome import Outcome, console
from tests.bench.stack import Bench, running_bench, seconds_of
from workers.integrity.verify import verify_environment
from workers.store.environments import Environment
from workers.store.repacks import Repack
from workers.store.shards import LEASED, Progress, list_shards, progress

RATIOS = {"postgresql": 0.65, "sqlite": 0.45}
"""Least share of the ceiling of one process that two workers reach, at 1,000,000 data keys."""

PEAK_MB = 150
DEEP_CALLS = (5, 8)  # a root, and beside
SHALLOW_CALLS = (1, 4)
CEILING_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--keys", type=int, default=1_000_000, help="data keys (1,000,000)")
    parser.add_argument("--roots", type=int, default=100, help="hourly wrapping keys they hang from (100)")
    parser.add_argument("--repeats", type=int, default=5, help="deep repacks of each database (5)")
    parser.add_argument("--databases", default="sqlite,postgresql", help="which, in this order")


def measure(asked: argparse.Namespace) -> Outcome:
    """Each database in turn."""
    kinds = asked.databases.split(",")
    result: dict[str, Any] = {"data_keys": asked.keys, "roots": asked.roots, "workers": 2}
    for kind in kinds:
        console.print(f"[bold]{kind}[/]: {asked.keys:,} data keys below {asked.roots} hourly keys")
        with running_bench(kind) as bench:
            result[kind] = _bench(bench, asked)
    result["ceiling_keys_per_second"] = round(median(each for kind in kinds for each in result[kind]["ceilings"]))
    missed = [sentence for kind in kinds for sentence in _missed(kind, result[kind])]
    return Outcome(figures=result, table=_table(result, kinds), missed=missed)


def _missed(kind: str, found: dict[str, Any]) -> list[str]:
    sentences = [f"{kind}: {found[name]} keys {name}" for name in ("broken", "stale") if found[name]]
    if found["ratio_to_ceiling"] < RATIOS[kind]:
        sentences.append(f"{kind}: {found['ratio_to_ceiling']} of the ceiling, not {RATIOS[kind]}")
    if found["worker_peak_mb"] > PEAK_MB:
        sentences.append(f"{kind}: a worker took {found['worker_peak_mb']} MB, not {PEAK_MB}")
    for mode, (a_root, beside), made in (
        ("deep", DEEP_CALLS, max(found["kms_calls_deep"])),
        ("shallow", SHALLOW_CALLS, found["kms_calls_shallow"]),
    ):
        if made > (most := a_root * found["roots"] + beside):
            sentences.append(f"{kind}: {made} KMS calls of a {mode} repack, not {most}")
    if found["batches_repeated"] > 1:
        sentences.append(f"{kind}: {found['batches_repeated']} batches repeated for one killed worker")
    return sentences


def _bench(bench: Bench, asked: argparse.Namespace) -> dict[str, Any]:
    """Seed, then: managed → AWS, AWS → AWS …, a rotation, and once more with a worker killed in the middle."""
    started = time.monotonic()
    environment = bench.seed("main", data_keys=asked.keys, roots=asked.roots)
    console.print(f"  seeded in {time.monotonic() - started:.1f} s")
    rates, calls, last, ceilings = [], [], None, [measure_ceiling(CEILING_SECONDS)]
    for _ in range(asked.repeats):
        key = str(bench.simulator.create_main_key())
        bench.replace(environment, key)
        last = bench.wait_for_end(environment, after=last)
        ceilings.append(measure_ceiling(CEILING_SECONDS))
        rates.append(asked.keys / seconds_of(last))
        calls.append(_kms_calls(bench, last))
        beside = f"{rates[-1] / mean(ceilings[-2:]):.3f} of the ceiling"
        console.print(f"  deep: {rates[-1]:,.0f} keys/s, {beside}, {calls[-1]} KMS calls, {last.state}")
    assert last is not None
    bench.simulator.rotate(last.target_key.removeprefix("aws-kms:"))
    bench.rotated(environment)
    last = bench.wait_for_end(environment, after=last)
    shallow = _kms_calls(bench, last)
    console.print(f"  shallow: {seconds_of(last):.2f} s, {shallow} KMS calls")
    peak = bench.worker_peak_mb()
    last, killed = _kill_in_mid_run(bench, environment, last, str(bench.simulator.create_main_key()))
    report = verify_environment(bench.services, environment)
    ratios = [rate / mean(ceilings[at : at + 2]) for at, rate in enumerate(rates)]
    return {
        "keys_per_second": round(median(rates)),
        "ratio_to_ceiling": round(median(ratios), 3),
        "rates": [round(rate) for rate in rates],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ceilings": [round(ceiling) for ceiling in ceilings],
        "worker_peak_mb": round(peak, 1),
        "kms_calls_deep": calls,
        "kms_calls_shallow": shallow,
        "roots": asked.roots + 4,
        "verified": report.verified,
        "broken": report.broken,
        "stale": report.stale,
        **killed,
    }


def _kill_in_mid_run(bench: Bench, environment: Environment, last: Repack, key: str) -> tuple[Repack, dict[str, Any]]:
    """One worker dies with a lease in its hands: how many keys were rewrapped, and how many leases taken over."""
    bench.replace(environment, key)
    deadline = time.monotonic() + 60
    while not _try_to_kill(bench, environment, last):
        if time.monotonic() > deadline:
            raise TimeoutError("No worker was caught with a lease in mid-run.")
        time.sleep(0.01)
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


def _try_to_kill(bench: Bench, environment: Environment, last: Repack) -> bool:
    """Stop a worker, and kill it if it holds a shard that is some batches into the renewal; else let it go on."""
    repack = bench.latest(environment)
    if repack is None or repack.id == last.id:
        return False
    name = bench.workers[0]
    leader = bench.supervisor.pid(name)
    if leader is None:
        return False
    os.killpg(leader, signal.SIGSTOP)
    with bench.services.database.read() as connection:
        rows = list_shards(connection, repack.id)
    held = [row for row in rows if (row["state"], row["stage"]) == (LEASED, "renew") and row["seen"]]
    if any(os.getpgid(int(row["owner"].split(":")[-2])) == leader for row in held):
        bench.kill_worker(name)
        return True
    os.killpg(leader, signal.SIGCONT)
    return False


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
