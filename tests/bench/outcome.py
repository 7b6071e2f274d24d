"""What a bench is, and what it found. A bench is a module of this folder, named in `__main__`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

console = Console(stderr=True)
"""Where benches tell how far they are: standard output is the last line's alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`figures`: its part of the last line of JSON, under names of its own. `missed`: the promises not kept."""

    figures: dict[str, Any]
    table: Table
    missed: list[str] = field(default_factory=list)


class Bench(Protocol):
    """One thing that is measured."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what can be chosen."""

    def measure(self, asked: argparse.Namespace) -> Outcome:
        """Set up, measure, tear down."""
