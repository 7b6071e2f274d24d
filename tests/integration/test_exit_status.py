"""What a worker's exit status says to whoever supervises it: 0 when it was told to stop, another one for an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.poll import poll
from workers.embedded.redis import RedisServer
from workers.store.database import Database
from workers.store.schema import migrate

FAILING = """
import sys
from workers.cli.application import run
from workers.celery_app.wake_up_consumer import WakeUpConsumer

def fail(self):
    raise {error}

WakeUpConsumer.connect = fail
sys.exit(run(["worker"]))
"""


def environment(folder: Path, broker: str) -> dict[str, str]:
    """The variables of a worker on a database of its own."""
    database = Database(f"sqlite:///{folder}/keyrepack.db")
    migrate(database)
    database.close()
    return os.environ | {"KEYREPACK_DATABASE_URL": str(database.engine.url), "KEYREPACK_BROKER_URL": broker}


@pytest.mark.parametrize("error", ["ValueError('nothing that anybody thought of')", "SystemExit(7)"])
def test_a_worker_that_ends_by_an_error_says_so(tmp_path: Path, redis_server: RedisServer, error: str) -> None:
    """Celery logs the error and stops; a supervisor that saw status 0 would take the worker for done."""
    process = subprocess.run(
        [sys.executable, "-c", FAILING.format(error=error)], env=environment(tmp_path, redis_server.url),
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert process.returncode == (7 if "7" in error else 1), process.stderr.decode()[-2000:]


def test_a_worker_that_is_told_to_stop_ends_with_0(tmp_path: Path, redis_server: RedisServer) -> None:
    """SIGTERM is how supervisors, containers and Kubernetes say it."""
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "worker"], env=environment(tmp_path, redis_server.url),
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        poll(lambda: " ready." in log.read_text(), 60, "the worker is ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait(20)
