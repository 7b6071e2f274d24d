"""`python -m tests.bench`: what was promised in figures, measured on this machine through the real processes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests.bench import fair, growth, peers, phases, polite, polling, repack, restriction, revocation, rotation, watched
from tests.bench.outcome import Bench, Outcome, console

BENCHES: dict[str, Bench] = {
    "repack": repack,
    "phases": phases,
    "revocation": revocation,
    "restriction": restriction,
    "rotation": rotation,
    "polling": polling,
    "fair": fair,
    "polite": polite,
    "peers": peers,
    "growth": growth,
    "watched": watched,
}
"""By name, in the order in which they run."""

UNASKED = [name for name in BENCHES if name not in ("peers", "growth", "watched")]
"""What a plain `make bench` runs: these three take their time, and have targets of their own."""


def main() -> int:
    """Run what was asked for; tables, and one line of JSON last on standard output."""
    asked = _arguments()
    outcomes: dict[str, Outcome] = {}
    for name in asked.only:
        console.rule(name)
        outcomes[name] = BENCHES[name].measure(asked)
    figures: dict[str, Any] = {}
    for outcome in outcomes.values():
        console.print(outcome.table)
        figures |= outcome.figures
    missed = [f"{name}: {what}" for name, outcome in outcomes.items() for what in outcome.missed]
    for sentence in missed:
        console.print(f"[bold red]missed[/] {sentence}")
    sys.stdout.write(json.dumps(figures | {"missed": missed}) + "\n")
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", type=_names, default=UNASKED, help=f"of {','.join(BENCHES)}")
    for bench in BENCHES.values():
        bench.add_arguments(parser)
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(BENCHES):
        raise argparse.ArgumentTypeError(f"no bench is called {', '.join(sorted(unknown))}")
    return [name for name in BENCHES if name in names]


if __name__ == "__main__":
    raise SystemExit(main())
