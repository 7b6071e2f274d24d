"""Rotation: from a main key rotated in its KMS, without a word to anybody, to the last root rewrapped."""

from __future__ import annotations

import argparse
import time

from rich.table import Table

from schemas.keys import MainKeyUri
from schemas.states import RepackState
from tests.bench.outcome import Outcome, console
from tests.bench.spread import spread
from tests.bench.stack import Bench, running_bench
from workers.store.environments import Environment

POLL_INTERVAL = 4.0
"""Short, so that it can be measured often."""

FOLLOWED_SECONDS = 10.0
"""What is promised beyond the interval."""

ROOTS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--rotations", type=int, default=4, help="rotations of three keys at a time (4)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Three environments on keys of their own, with a hundred roots each, rotated at the same time."""
    seconds = []
    with running_bench("postgresql", extra={"KEYREPACK_POLL_INTERVAL": str(POLL_INTERVAL)}) as bench:
        keys = {_environment(bench, number, key): key for number, key in enumerate(_new_keys(bench))}
        console.print(f"{asked.rotations} rotations of {len(keys)} keys; looks every {POLL_INTERVAL} s")
        for _ in range(asked.rotations):
            last = {environment: bench.latest(environment) for environment in keys}
            rotated = time.time()
            for key in keys.values():
                bench.simulator.rotate(key.name)
            for environment in keys:
                repack = bench.wait_for_end(environment, after=last[environment])
                assert repack.state == RepackState.FINISHED, repack
                assert repack.ended_at is not None
                seconds.append(repack.ended_at - rotated)
    bound = POLL_INTERVAL + FOLLOWED_SECONDS
    found = {"rotations": len(seconds), "roots": ROOTS, "poll_interval": POLL_INTERVAL, "bound": bound}
    missed = [] if max(seconds) <= bound else [f"followed after {max(seconds):.1f} s, promised within {bound} s"]
    table = Table("", "p50", "max", title=f"Seconds from a rotation to the last of {ROOTS} roots rewrapped")
    told = spread(seconds)
    table.add_row(f"looks every {POLL_INTERVAL} s", f"{told['p50']:.2f}", f"{told['max']:.2f}")
    return Outcome(figures={"rotation": found | {"followed": told}}, table=table, missed=missed)


def _new_keys(bench: Bench) -> list[MainKeyUri]:
    return [bench.simulator.create_main_key() for _ in range(3)]


def _environment(bench: Bench, number: int, key: MainKeyUri) -> Environment:
    environment = bench.keyring.create_environment("rotation", str(number), main_key=str(key), actor="bench")
    bench.keyring.create_wrapping_keys(environment.environment_id, None, ROOTS)
    return environment
