"""Progress as it happens: a bar a stage with rate and time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from workers.cli.output import amount, duration
from workers.monitoring.progress import DONE, WAITING, StageView

LINE_SECONDS = 1.0
"""How often a plain line is written: a log is read later, not watched."""

FRAMES = 10
"""Frames a second: smooth enough, and next to nothing of a core."""

BAR_WIDTH = 28

UNITS = {"move": "roots", "renew": "keys", "shred": "versions"}


class Bars:
    """Shows stages for the length of a block; `show` may be called as often as one likes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=FRAMES, transient=False) if console.is_terminal else None
        self._said: dict[str, str] = {}
        self._line_at = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, stages: Sequence[StageView], *, last: bool = False) -> None:
        """Show the stages as they are now. `last`: leave nothing out."""
        if self._live is not None:
            self._live.update(_drawn(stages), refresh=last)
            return
        now = time.monotonic()
        is_time = now - self._line_at >= LINE_SECONDS
        for stage in stages:
            line = plain_line(stage)
            has_begun = stage.state != WAITING and stage.fraction > 0
            news = stage.state == DONE or ((is_time or last) and has_begun)
            if news and self._said.get(stage.name) != line:
                self._said[stage.name] = line
                self._line_at = now
                self._console.print(f"   {line}")

    def say(self, text: str) -> None:
        """Print a line among the bars, in the console's markup."""
        self._console.print(text)


def plain_line(stage: StageView) -> str:
    """Format one stage in a line of text."""
    parts = [f"{stage.name:<9}{stage.fraction:>5.0%}", f"{_counted(stage):<28}"]
    if stage.rate:
        parts.append(f"{amount(stage.rate):>8} {UNITS[stage.stage.value]}/s")
    parts.append(_tail(stage))
    return "  ".join(part for part in parts if part).rstrip()


def _drawn(stages: Sequence[StageView]) -> Table:
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for place in range(6):
        drawn.add_column(justify="right" if place in {2, 4} else "left")
    for stage in stages:
        bar = ProgressBar(total=1.0, completed=stage.fraction, width=BAR_WIDTH)
        rate = f"{amount(stage.rate)} {UNITS[stage.stage.value]}/s" if stage.rate else ""
        drawn.add_row(f"   {stage.name}", bar, f"{stage.fraction:.0%}", _counted(stage), rate, _tail(stage))
    return drawn


def _counted(stage: StageView) -> str:
    unit = UNITS[stage.stage.value]
    if stage.stage.value == "shred":
        return f"{amount(stage.shredded)} old {unit} shredded"
    return f"{amount(stage.seen)} of {amount(stage.expected)} {unit}"


def _tail(stage: StageView) -> str:
    if stage.state == WAITING:
        return "waiting"
    if stage.state == DONE:
        return f"done in {duration(stage.seconds)}"
    return f"{duration(stage.seconds_left)} left" if stage.seconds_left is not None else ""
