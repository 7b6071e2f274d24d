"""`keyrepack up`, and the command line beside it: the real program, in processes of its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.leftovers import processes_of
from tests.poll import poll

pytestmark = pytest.mark.acceptance

START_SECONDS = 60.0
FRESH = {name: value for name, value in os.environ.items() if not name.startswith(("KEYREPACK_", "AWS_"))}


class Standing:
    """A stack that stands, and a terminal beside it."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], text: str) -> None:
        self.folder, self.process, self.text = folder, process, text
        lines = (folder / "environment").read_text().splitlines()
        pairs = (shlex.split(line.removeprefix("export "))[0].partition("=") for line in lines)
        self.environment = {name: value for name, _, value in pairs}

    def type(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Type a command in another terminal."""
        command = [sys.executable, "-m", "workers.cli", *arguments]
        return subprocess.run(
            command, env=FRESH | self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def done(self, *arguments: str) -> Any:
        """The document of a command that succeeds."""
        done = self.type(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    """`keyrepack up` in a folder of the test's own."""
    folder = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "up", "--data-dir", str(folder)],
        env=FRESH | {"MARKER": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if "live until Ctrl-C" in line:
            break
    assert (folder / "environment").exists(), text
    yield Standing(folder, process, text)
    if process.poll() is None:
        process.terminate()
        process.communicate(timeout=300)


def test_an_operator_replaces_a_main_key(standing: Standing) -> None:
    """From an empty data folder to a certificate, by the commands that `up` names; then Ctrl-C stops all of it."""
    key = next(word for word in standing.text.split() if word.startswith("aws-kms:"))
    standing.done("environment", "create", "acme/production")
    standing.done("seed", "acme/production", "--data", "500")
    assert standing.done("doctor")["ok"] is True
    assert standing.done("main-key", "replace", "acme/production", key, "--dry-run")["kms_calls"] > 29
    standing.done("main-key", "replace", "acme/production", key)
    watched = standing.done("repack", "watch", "acme/production", "--patience", "50")
    assert (watched["state"], watched["quarantined"]) == ("finished", 0)
    assert standing.done("certificate", "acme/production")["to"]["main_key"] == key
    assert standing.done("verify")["ok"] is True
    assert standing.done("audit", "verify")["whole"] is True
    standing.process.send_signal(signal.SIGINT)
    out, _ = standing.process.communicate(timeout=300)
    assert standing.process.returncode == 0, out
    assert "All of it is stopped." in out
    marker = str(standing.folder.parent)
    poll(lambda: not processes_of(marker), 10.0, f"nothing of it runs: {processes_of(marker)}")


def test_an_event_through_the_queue_is_handled_or_listed(standing: Standing, tmp_path: Path) -> None:
    """`events publish` takes the way of every other service: one event has its effect, one is kept with its reason."""
    key = next(word for word in standing.text.split() if word.startswith("aws-kms:"))
    environment = standing.done("environment", "create", "acme/production")["id"]
    standing.done("seed", "acme/production", "--data", "50")
    for number, place in enumerate([environment, "00000000-0000-0000-0000-000000000000"]):
        data = {"environment": place, "main_key": key}
        event = {"specversion": "1.0", "id": f"{number}", "source": "test", "type": "main_key.replaced", "data": data}
        (tmp_path / "event.json").write_text(json.dumps(event))
        standing.done("events", "publish", str(tmp_path / "event.json"))
    poll(lambda: standing.done("repack", "list")["repacks"], 30.0, "the repack has started")
    rejected = poll(lambda: standing.done("events", "rejected")["rejected"], 30.0, "the other one is rejected")
    assert rejected[0]["code"] == "not_found"
    again = standing.type("up", "--data-dir", str(standing.folder))
    assert again.returncode == 1
    assert "Another `keyrepack up` runs there." in again.stderr


def test_a_worker_that_is_killed_comes_back(standing: Standing) -> None:
    """`up` says so, and starts it again."""
    row = next(line for line in standing.text.splitlines() if line.startswith("worker-1"))
    os.killpg(int(row.split()[1]), signal.SIGKILL)
    assert standing.process.stdout is not None
    line = next(line for line in standing.process.stdout if line.startswith("worker-1"))
    assert "killed by SIGKILL; it starts again in" in line
