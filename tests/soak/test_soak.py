"""The soak of a minute: long enough for some of each kind of trouble; `make soak` takes longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(330)]


def test_a_minute_of_trouble_loses_nothing(tmp_path: Path) -> None:
    """Nothing is lost or done under a lock or a stale lease, and no reader fails unannounced."""
    argv = [sys.executable, "-m", "tests.soak", "--minutes", "0.75", "--data-keys", "2400", "--logs", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ok"]
    assert summary["kills"]
