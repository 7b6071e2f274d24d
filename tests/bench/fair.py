"""Fair: many small environments repacked at once, alone and beside one with a million keys; and a revocation amid them.

The same work twice, in one run: what the small ones take beside the large one is told in times of what they take alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from sqlalchemy import func, select

from schemas.states import ENDED, Stage
from tests.bench.outcome import Outcome, console
from tests.bench.stack import PATIENCE_SECONDS, Bench, running_bench
from workers.integrity.verify import verify_environment
from workers.keyring.keyring import Keyring
from workers.store import models
from workers.store.environments import Environment, get_environment

KEYS_IN_SMALL = 100
SEEDERS = 4
VERIFIED = 20
"""Small environments whose keys are all opened at the end."""

MOST_TIMES, MOST_REVOCATION_SECONDS = 2.0, 1.0
"""What was promised: the small ones' time beside the large one, and a revocation's."""

EXTRA = {"KEYREPACK_KMS_CALLS_PER_SECOND": "5000"}
"""More than the simulator answers: here the workers are what is shared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--large", type=int, default=1_000_000, help="data keys of the large environment (1,000,000)")
    parser.add_argument("--small", type=int, default=999, help="environments with 100 data keys (999)")
    parser.add_argument("--fair-database", default="postgresql", help="postgresql or sqlite")


def measure(asked: argparse.Namespace) -> Outcome:
    """Seed; the small ones alone; then others like them beside the large one."""
    with running_bench(asked.fair_database, extra=EXTRA) as bench:
        started = time.monotonic()
        alone, beside = (seed_small(bench, name, asked.small) for name in ("alone", "beside"))
        victims = seed_small(bench, "victims", 2)
        large = bench.seed("large", data_keys=asked.large, roots=100)
        console.print(f"  seeded in {time.monotonic() - started:.1f} s")
        key = str(bench.simulator.create_main_key())
        by_themselves = repack_all(bench, alone, key)
        console.print(f"  {asked.small} alone: {by_themselves.seconds:.1f} s")
        bench.replace(large, key)
        _wait_for_renewal(bench, large)
        with_large = repack_all(bench, beside, key, victims=victims)
        console.print(f"  {asked.small} beside {asked.large:,} keys: {with_large.seconds:.1f} s")
        was_running = _is_open(bench, large)
        ended = bench.wait_for_end(large, after=None)
        broken = _count_broken(bench, [*beside[:VERIFIED], large])
    times = with_large.seconds / by_themselves.seconds
    revocation = max(with_large.revocations)
    figures = {
        "small_environments": asked.small,
        "large_data_keys": asked.large,
        "small_alone_seconds": round(by_themselves.seconds, 1),
        "small_beside_seconds": round(with_large.seconds, 1),
        "times": round(times, 2),
        "small_median_seconds": [round(run.median, 2) for run in (by_themselves, with_large)],
        "large_ran_throughout": was_running,
        "large_state": ended.state.value,
        "revocation_seconds": [round(seconds, 3) for seconds in with_large.revocations],
        "broken": broken,
    }
    missed = [
        sentence
        for is_missed, sentence in (
            (times > MOST_TIMES, f"{times:.2f} times as long beside the large one"),
            (revocation > MOST_REVOCATION_SECONDS, f"a revocation took {revocation:.2f} s"),
            (broken > 0, f"{broken} keys do not open"),
        )
        if is_missed
    ]
    return Outcome(figures={"fair": figures}, table=_table(figures), missed=missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Many repacks at once: seconds to the last one's end, the median of each one's own, revocations amid them."""

    seconds: float
    median: float
    revocations: list[float] = field(default_factory=list)


def seed_small(bench: Bench, name: str, count: int) -> list[Environment]:
    """Environments with 100 data keys each."""
    keyring = Keyring(bench.services)

    def seed(number: int) -> Environment:
        environment = keyring.create_environment(name, str(number), actor="bench")
        reference = environment.environment_id
        keyring.create_data_keys(reference, None, 1)
        keyring.create_data_keys(reference, keyring.create_wrapping_key(reference), KEYS_IN_SMALL)
        return environment

    with ThreadPoolExecutor(SEEDERS) as threads:
        return list(threads.map(seed, range(count)))


def repack_all(
    bench: Bench, environments: list[Environment], key: str, *, victims: list[Environment] | None = None
) -> Run:
    """Ask for all of them at once, and wait until the last one has ended.

    A victim is revoked right behind the requests, and another one when half of them are done.
    """
    started, waiting = time.monotonic(), list(victims or [])
    revocations: list[float] = []
    for environment in environments:
        bench.replace(environment, key)
    while (ended := _count_ended(bench, environments)) < len(environments):
        if waiting and ended >= len(environments) // 2 * (len(victims or []) - len(waiting)):
            revocations.append(_revoke(bench, waiting.pop(0)))
        if time.monotonic() - started > PATIENCE_SECONDS:
            raise TimeoutError(f"{ended} of {len(environments)} repacks ended in {PATIENCE_SECONDS} s.")
        time.sleep(0.05)
    return Run(seconds=time.monotonic() - started, median=_median(bench, environments), revocations=revocations)


def _revoke(bench: Bench, environment: Environment) -> float:
    """Seconds from a revocation's publication to its commit."""
    started = time.monotonic()
    bench.say("main_key.revoked", environment)
    while True:
        with bench.services.database.read() as connection:
            if get_environment(connection, environment.id).lock_cause is not None:
                return time.monotonic() - started
        if time.monotonic() - started > PATIENCE_SECONDS:
            raise TimeoutError(f"{environment} was not revoked in {PATIENCE_SECONDS} s.")
        time.sleep(0.005)


def _wait_for_renewal(bench: Bench, environment: Environment) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        repack = bench.latest(environment)
        if repack is not None and repack.stage == Stage.RENEW and repack.level == 1:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{environment} did not come to its renewal in {PATIENCE_SECONDS} s.")


def _count_ended(bench: Bench, environments: list[Environment]) -> int:
    repacks = models.repacks.c
    query = select(func.count()).where(*_of(environments), repacks.state.in_(ENDED))
    with bench.services.database.read() as connection:
        return int(connection.execute(query).scalar_one())


def _median(bench: Bench, environments: list[Environment]) -> float:
    repacks = models.repacks.c
    query = select(repacks.ended_at - repacks.created_at).where(*_of(environments))
    with bench.services.database.read() as connection:
        return statistics.median(connection.execute(query).scalars())


def _of(environments: list[Environment]) -> tuple[Any, ...]:
    """They were made one after the other."""
    first, last = min(each.id for each in environments), max(each.id for each in environments)
    return (models.repacks.c.environment.between(first, last),)


def _is_open(bench: Bench, environment: Environment) -> bool:
    repack = bench.latest(environment)
    return repack is not None and repack.is_open


def _count_broken(bench: Bench, environments: list[Environment]) -> int:
    return sum(verify_environment(bench.services, environment).broken for environment in environments)


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"{figures['small_environments']} environments of 100 keys, two workers")
    table.add_column("")
    table.add_column("alone", justify="right")
    table.add_column(f"beside {figures['large_data_keys']:,} keys", justify="right")
    alone, beside = figures["small_alone_seconds"], figures["small_beside_seconds"]
    table.add_row("seconds until all have ended", str(alone), f"{beside} (× {figures['times']})")
    table.add_row("median of one repack, start to end", *(str(each) for each in figures["small_median_seconds"]))
    behind, amid = figures["revocation_seconds"]
    table.add_row("a revocation, behind all requests / amid the repacks", "", f"{behind} s / {amid} s")
    return table
