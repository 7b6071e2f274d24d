"""Watched: deep repacks with the dashboard open in fifty browsers beside some that nobody watches, turn by turn."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from tests.bench.browsers import Browsers, Seen, running_browsers
from tests.bench.outcome import Outcome, console
from tests.bench.stack import Bench, running_bench, seconds_of
from workers.dashboard.auth.passwords import hash_password
from workers.embedded.stack import DASHBOARD, Servers, start_dashboard, wait_for_dashboard
from workers.integrity.verify import verify_environment
from workers.store.environments import Environment
from workers.store.repacks import Repack

BROWSERS = 50
"""Half of them on the overview, half on the run's own page; each somebody's own session."""

MOST_COST = 0.05
"""Of a run's rate, what all of them together may take; the browsers' own process is in it."""

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One repack. Processor seconds are those from its event to its end."""

    keys_per_second: float
    dashboard_seconds: float
    browsers_seconds: float
    seen: Seen | None  # None: nobody watched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen, beside the repack bench's own."""
    parser.add_argument(
        "--watched-keys", type=int, default=1_000_000, help="data keys of the watched bench (1,000,000)"
    )
    parser.add_argument("--watched-pairs", type=int, default=3, help="runs unwatched, and as many watched (3)")
    parser.add_argument("--watched-database", default="sqlite", choices=("sqlite", "postgresql"), help="its database")


def measure(asked: argparse.Namespace) -> Outcome:
    """One hierarchy, repacked again and again: nobody watches, fifty watch, nobody, fifty, …"""
    keys, kind = asked.watched_keys, asked.watched_database
    console.print(f"[bold]{kind}[/]: {keys:,} data keys below {asked.roots} hourly keys, {BROWSERS} browsers")
    with running_bench(kind) as bench:
        environment = bench.seed("main", data_keys=keys, roots=asked.roots)
        address = _start_dashboard(bench)
        with running_browsers(address, _names(), PASSWORD) as browsers:
            pairs = _pairs(bench, environment, browsers, keys, asked.watched_pairs)
        report = verify_environment(bench.services, environment)
    figures = {
        "database": kind,
        "data_keys": keys,
        "browsers": BROWSERS,
        "broken": report.broken,
        "stale": report.stale,
        **_figures(pairs),
    }
    return Outcome(figures={"watched": figures}, table=_table(figures), missed=_missed(figures, pairs))


def _names() -> list[str]:
    return [f"viewer-{number + 1}" for number in range(BROWSERS)]


def _start_dashboard(bench: Bench) -> str:
    """The dashboard's address, once it answers; everybody has the same password, for each hash takes its time."""
    kept, file = hash_password(PASSWORD), bench.folder / "users.json"
    file.write_text(json.dumps({"users": [{"name": name, "role": "viewer", "password": kept} for name in _names()]}))
    file.chmod(0o600)
    servers = Servers(environment={**os.environ, "KEYREPACK_USERS_FILE": str(file)})
    start_dashboard(bench.supervisor, servers)
    wait_for_dashboard(bench.supervisor, servers)
    return servers.dashboard


def _pairs(bench: Bench, environment: Environment, browsers: Browsers, keys: int, count: int) -> list[tuple[Run, Run]]:
    """(unwatched, watched) runs. One goes before them: by it all processes load and compile what they need."""
    last, _ = _run(bench, environment, browsers, keys, last=None, watched=True)
    pairs = []
    for _ in range(count):
        last, alone = _run(bench, environment, browsers, keys, last=last, watched=False)
        last, watched = _run(bench, environment, browsers, keys, last=last, watched=True)
        pairs.append((alone, watched))
        console.print(f"  {alone.keys_per_second:,.0f} keys/s, watched {watched.keys_per_second:,.0f}: {watched.seen}")
    return pairs


def _run(
    bench: Bench, environment: Environment, browsers: Browsers, keys: int, *, last: Repack | None, watched: bool
) -> tuple[Repack, Run]:
    """Browsers come before a run begins, and leave when it has ended."""
    if watched:
        browsers.watch()
    processes = (bench.supervisor.pid(DASHBOARD), browsers.process.pid)
    before = [_processor_seconds(pid) for pid in processes]
    bench.replace(environment, str(bench.simulator.create_main_key()))
    ended = bench.wait_for_end(environment, after=last)
    dashboard, drawn = (_processor_seconds(pid) - at for pid, at in zip(processes, before, strict=True))
    seen = browsers.leave() if watched else None
    run = Run(keys_per_second=keys / seconds_of(ended), dashboard_seconds=dashboard, browsers_seconds=drawn, seen=seen)
    return ended, run


def _processor_seconds(pid: int | None) -> float:
    """What a process has spent so far, in itself and in the kernel (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _figures(pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    alone, watched = [one for one, _ in pairs], [one for _, one in pairs]
    rates = [median(run.keys_per_second for run in runs) for runs in (alone, watched)]
    seen = [run.seen for run in watched if run.seen is not None]
    costs = [1 - one.keys_per_second / other.keys_per_second for other, one in pairs]
    return {
        "unwatched_rates": [round(run.keys_per_second) for run in alone],
        "watched_rates": [round(run.keys_per_second) for run in watched],
        "unwatched_keys_per_second": round(rates[0]),
        "watched_keys_per_second": round(rates[1]),
        "cost_of_medians": round(1 - rates[1] / rates[0], 4),
        "cost": round(median(costs), 4),
        "costs": [round(cost, 4) for cost in costs],
        "dashboard_seconds_unwatched": [round(run.dashboard_seconds, 2) for run in alone],
        "dashboard_seconds_watched": [round(run.dashboard_seconds, 2) for run in watched],
        "browsers_seconds": [round(run.browsers_seconds, 2) for run in watched],
        "seen": [asdict(one) for one in seen],
        "events_of_a_browser": round(median(one.events for one in seen) / BROWSERS, 1),
        "kilobytes_of_a_browser": round(median(one.event_bytes for one in seen) / BROWSERS / 1000, 1),
    }


def _missed(figures: dict[str, Any], pairs: list[tuple[Run, Run]]) -> list[str]:
    """By the pairs' costs: two runs one after the other share what else the machine did."""
    sentences = [f"{figures[name]} keys {name}" for name in ("broken", "stale") if figures[name]]
    if figures["cost"] >= MOST_COST:
        sentences.append(f"{BROWSERS} browsers cost {figures['cost']:.1%} of the rate, not less than {MOST_COST:.0%}")
    for number, (_, watched) in enumerate(pairs, 1):
        assert watched.seen is not None
        if watched.seen.broken:
            sentences.append(
                f"run {number}: {len(watched.seen.broken)} streams broke, such as {watched.seen.broken[0]}"
            )
        if watched.seen.on_run < BROWSERS // 2:
            sentences.append(f"run {number}: {watched.seen.on_run} of {BROWSERS // 2} came to its page before it ended")
    return sentences


def _table(figures: dict[str, Any]) -> Table:
    title = f"{figures['data_keys']:,} data keys on {figures['database']}, watched by {figures['browsers']} browsers"
    table = Table("", "nobody", "watched", title=title)
    for name, values in (
        ("keys per second, each run", ("unwatched_rates", "watched_rates")),
        ("keys per second, median", ("unwatched_keys_per_second", "watched_keys_per_second")),
        ("processor seconds of the dashboard", ("dashboard_seconds_unwatched", "dashboard_seconds_watched")),
        ("processor seconds of the browsers", (None, "browsers_seconds")),
        ("events a browser was sent", (None, "events_of_a_browser")),
        ("kB a browser was sent in events", (None, "kilobytes_of_a_browser")),
        ("cost, of each pair", (None, "costs")),
        ("cost, median of the pairs", (None, "cost")),
        ("cost, of the medians", (None, "cost_of_medians")),
    ):
        table.add_row(name, *("" if value is None else str(figures[value]) for value in values))
    return table
