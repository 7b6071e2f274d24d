"""The demo, as somebody new runs it: what it shows, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.leftovers import processes_of
from tests.poll import poll

pytestmark = pytest.mark.acceptance

DATA_KEYS = 5_000
SECONDS = 120.0


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run the demo; whatever it makes or starts is known by `folder`."""
    command = [sys.executable, "-m", "workers.cli", "demo", "--data-keys", str(DATA_KEYS), *arguments]
    environment = os.environ | {"TMPDIR": str(folder), "KEYREPACK_BATCH_SIZE": "7", "AWS_PROFILE": "nobodys"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def require_nothing_left(folder: Path) -> None:
    """No process, no file."""
    poll(lambda: not processes_of(str(folder)), 10.0, f"nothing of the demo runs: {processes_of(str(folder))}")
    assert list(folder.iterdir()) == []


def test_the_demo_shows_what_it_says(tmp_path: Path) -> None:
    """Four deep repacks beside a killed worker, a second key, a rotation; every key verified; nothing left."""
    program = start(tmp_path, "--json")
    out, err = program.communicate(timeout=SECONDS)
    assert program.returncode == 0, err
    assert len(out.splitlines()) == 1
    summary = json.loads(out.splitlines()[-1])
    assert summary["data_keys"] == DATA_KEYS
    assert summary["verified"] == DATA_KEYS + summary["created_meanwhile"]
    assert summary["rewrapped"] > DATA_KEYS
    for name in ("quarantined", "stale", "reader_failures", "rewrapped_twice"):
        assert summary[name] == 0, name
    assert summary["worker_kills"] >= 1
    assert summary["takeovers"] >= 1
    assert [repack["mode"] for repack in summary["repacks"]] == ["deep"] * 5 + ["shallow"]
    assert len({repack["environment"] for repack in summary["repacks"]}) == 4
    shallow = summary["repacks"][-1]
    assert shallow["kms_calls"] <= 29 + summary["created_meanwhile"] + 4
    for word in ("SIGKILL", "failures: none", "the first key is disabled, while the renewal runs", "census sha256:"):
        assert word in err
    require_nothing_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """In the middle of the repacks, with a worker just killed."""
    program = start(tmp_path)
    assert program.stdout is not None
    for line in program.stdout:
        if "SIGKILL" in line:
            break
    program.send_signal(number)
    _, err = program.communicate(timeout=SECONDS)
    assert program.returncode == 130
    assert "Traceback" not in err
    assert "Interrupted." in err
    require_nothing_left(tmp_path)


def test_what_is_to_be_kept_is_kept(tmp_path: Path) -> None:
    """With --keep and --data-dir, logs and database stay where one wants them, even after an interrupt."""
    folder = tmp_path / "kept"
    program = start(tmp_path, "--data-dir", str(folder), "--keep")
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("2 "):
            break
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=SECONDS)
    assert (folder / "keyrepack.db").exists()
    assert (folder / "log" / "worker-1.log").exists()
    poll(lambda: not processes_of(str(tmp_path)), 10.0, "nothing of the demo runs")
