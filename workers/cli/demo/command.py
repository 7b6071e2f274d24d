"""The command."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from workers.cli.output import AsJson, console, duration, to_json, wishes

LEAST = 400
"""With fewer keys the renewal would be over before anybody could kill a worker."""


def demo(
    data_keys: Annotated[int, typer.Option(min=LEAST, help="Data keys in all four environments together.")] = 100_000,
    data_dir: Annotated[Path | None, typer.Option(help="An empty or new folder to run in.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the data folder, logs and all, behind.")] = False,
    as_json: AsJson = False,
) -> None:
    """See the main job: four customers' keys are replaced while a worker is killed and an old key is disabled.

    Runs on parts of its own (Redis, SQLite, a KMS simulator, two workers and beat) in a temporary folder, and leaves
    nothing behind. With --json the last line on standard output is the summary; the story goes to standard error.
    """
    begun = time.monotonic()
    speaker = console(error=wishes.json)
    speaker.print("[bold]keyrepack demo[/]: starting Redis, a KMS simulator, two workers and beat on this machine")
    from workers.cli.demo.proof import prove
    from workers.cli.demo.scene import scene
    from workers.cli.demo.story import tell

    with scene(speaker, data_dir, keep=keep) as stage:
        summary = prove(stage, tell(stage, data_keys))
        folder = stage.folder
    speaker.print(f"\n   All of it is stopped, after {duration(time.monotonic() - begun)}.", style="bold green")
    if keep:
        speaker.print(f"   The data folder is {folder}")
    if wishes.json:
        sys.stdout.write(to_json(summary.as_json()) + "\n")
