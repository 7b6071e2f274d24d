"""Commands that run one process until it is told to stop: worker, beat, kms-simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from workers.runtime.settings import Settings

SIMULATOR_PORT = 4599
"""The simulator's own default, without importing it."""


def worker(
    name: Annotated[str, typer.Option(help="Name of this worker, unique on its host.")] = "worker",
    queues: Annotated[str, typer.Option(help="Queues it serves, most urgent first; all of them if empty.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Child processes.")] = 1,
    events: Annotated[
        bool, typer.Option("--events/--no-events", help="Also take other services' events from the broker.")
    ] = True,
) -> int:
    """Run a worker: it takes wake-ups, walks shards, and takes events from other services.

    Any number of them may run, on any number of hosts; each may be killed at any time. Its exit status is 0 when it
    was told to stop, and another one when it ended by an error.
    """
    from producers.topology import WORK_QUEUES
    from workers.cli.session import read_settings

    settings = read_settings()  # a wrong setting is told in a sentence, before Celery loads
    _require_schema(settings)
    from workers.celery_app.worker_process import WorkerProcess

    process = WorkerProcess(settings, takes_events=events)
    return process.run(name=name, queues=queues or ",".join(WORK_QUEUES), concurrency=concurrency)


def _require_schema(settings: Settings) -> None:
    """Raise SchemaTooOld, ProgramTooOld. A database that is away is waited for by the worker itself."""
    from workers.cli.output import note
    from workers.errors import DatabaseFailed
    from workers.store.database import Database, require_database
    from workers.store.revisions import require_current

    require_database(settings.database_url.get_secret_value(), exists=True)
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    try:
        require_current(database)
    except DatabaseFailed as error:
        note(f"{error.what} The worker waits for it; whether its schema serves this program is not known yet.")
    finally:
        database.close()


def beat() -> None:
    """Run the clock that wakes the sweeper. Two of them do no harm: a tick is taken once."""
    from workers.cli.session import read_settings

    settings = read_settings()
    from workers.celery_app.beat_process import run_beat

    run_beat(settings)


def kms_simulator(
    host: Annotated[str, typer.Option(help="A loopback address; any other is refused.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = SIMULATOR_PORT,
) -> None:
    """Run a KMS that speaks AWS's API on this machine: generations, rotation, states, faults to inject.

    Its keys live as long as its process. Point any AWS SDK to it by AWS_ENDPOINT_URL_KMS.
    """
    from workers.embedded.simulator.server import serve

    serve(host, port)
