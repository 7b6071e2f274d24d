"""Commands that run a process until it is told to stop: worker, beat."""

from __future__ import annotations

from typing import Annotated

import typer

from producers.topology import WORK_QUEUES

app = typer.Typer()


@app.command()
def worker(
    name: Annotated[str, typer.Option(help="Name of this worker, unique on its host.")] = "worker",
    queues: Annotated[str, typer.Option(help="Queues it serves, most urgent first.")] = ",".join(WORK_QUEUES),
    concurrency: Annotated[int, typer.Option(min=1, help="Child processes.")] = 1,
    events: Annotated[bool, typer.Option(help="Also take other services' events from the broker.")] = True,
) -> None:
    """Run a worker: it takes wake-ups, walks shards, and takes events from other services."""
    from workers import app as celery_app
    from workers import consumer, tasks

    assert tasks.app is celery_app.app
    if events:
        consumer.install()
    celery_app.app.worker_main(
        [
            "worker", "--pool=prefork", f"--concurrency={concurrency}", f"--queues={queues}", f"--hostname={name}@%h",
            "--without-gossip", "--without-mingle", "--without-heartbeat", f"--loglevel={celery_app.settings.log_level}",
        ]
    )  # fmt: skip


@app.command()
def beat() -> None:
    """Run the clock that wakes the sweeper. Two of them do no harm: a tick is taken once."""
    from workers import app as celery_app
    from workers import tasks

    assert tasks.app is celery_app.app
    celery_app.app.start(["beat", f"--loglevel={celery_app.settings.log_level}", "--pidfile="])
