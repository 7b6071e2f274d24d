"""up: every part on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def up(
    data_dir: Annotated[Path, typer.Option(help="Where the database, the managed key and logs are kept.")] = Path(
        ".keyrepack"
    ),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
) -> None:
    """Start every part on this machine and stay up: Redis, database, KMS simulator, workers, beat, dashboard.

    A broker, database or KMS that the environment names (KEYREPACK_BROKER_URL, KEYREPACK_DATABASE_URL,
    AWS_ENDPOINT_URL_KMS) is used instead. What dies is started again. Ctrl-C stops all of it.
    """
    from workers.cli.output import console
    from workers.cli.up_stack import standing

    with standing(data_dir, workers, dashboard=True) as (supervisor, text):
        console().print(text)
        supervisor.wait()
        console().print("\nstopping …")
    console().print("All of it is stopped.")
