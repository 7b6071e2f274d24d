"""The database goes away in mid-run: everything waits, nothing is lost, and whoever asks is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.stack import LEASE_SECONDS, ON_POSTGRESQL, PATIENCE, WORKERS, Seeded, Stack
from tests.servers import PostgresServer

pytestmark = pytest.mark.acceptance

AWAY_SECONDS = float(os.environ.get("KEYREPACK_TEST_AWAY_SECONDS", "8"))
"""Longer than any lease, sweep and wait for a connection here. 30 does the same, and takes as much longer."""

GIVES_UP = 60.0


def _doctor(stack: Stack) -> dict[str, Any]:
    """What `keyrepack doctor` finds, by what it looked at."""
    argv = [sys.executable, "-m", "workers.cli", "doctor", "--json"]
    told = subprocess.run(argv, env=stack.variables(), capture_output=True, timeout=GIVES_UP, check=False)
    assert told.returncode == 1, told
    return {one["check"]: one for one in json.loads(told.stdout)["findings"]}


def _while_away(stack: Stack, seeded: Seeded, *, go: Callable[[], None], come_back: Callable[[], None]) -> Seeded:
    """Take the database away in mid-run, and bring it back; returns what was asked for in between."""
    other = stack.seed(data=240)
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    stack.started(seeded.environment, seen=100)
    gone_at = time.monotonic()
    go()
    try:
        stack.replace(other.environment, str(stack.simulator.create_main_key()))
        found = _doctor(stack)
        assert not found["database"]["ok"]
        assert "does not answer" in found["database"]["detail"]
        stack.wait_for(lambda: time.monotonic() > gone_at + max(AWAY_SECONDS, 2 * LEASE_SECONDS), PATIENCE, "a while")
        assert {*WORKERS, "beat"} <= set(stack.supervisor.running())
    finally:
        come_back()
    return other


@ON_POSTGRESQL
def test_a_database_that_is_killed_and_comes_back(stack: Stack, postgresql_server: PostgresServer) -> None:
    """SIGKILL of the server under a running repack: the workers live on, the doctor says so, the run ends by itself.

    A replacement that was asked for meanwhile waited in the broker, and is done as well.
    """
    seeded = stack.seed(data=4800)
    other = _while_away(stack, seeded, go=postgresql_server.kill, come_back=postgresql_server.start)
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack, takeovers=len(WORKERS))
    stack.check_deep(other, stack.ended(other.environment), takeovers=len(WORKERS))
    lines = [line for word in ("slice.left", "sweep.left", "event.held") for line in stack.log_lines(word)]
    said = {line["code"] for line in lines if "code" in line}  # a slice that is left in time has none
    assert said <= {"database_away"}
    assert said


@ON_POSTGRESQL
def test_a_database_that_was_frozen_goes_on(stack: Stack, postgresql_server: PostgresServer) -> None:
    """SIGSTOP of the server: connections stand, and nothing answers. Nobody hangs for ever, and nothing is lost."""
    seeded = stack.seed(data=4800)
    other = _while_away(stack, seeded, go=postgresql_server.freeze, come_back=postgresql_server.thaw)
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=len(WORKERS))
    stack.check_deep(other, stack.ended(other.environment), takeovers=len(WORKERS))
