"""Kills what a process has started, should that process die without a word (SIGKILL, out of memory).

PR_SET_PDEATHSIG would do half of it: it has to be set between fork and exec, which is unsafe beside threads, it follows
the *thread* that forked, and it does not reach the children's children (Celery's pool). So: one small process of its
own, which holds the reading end of a pipe. Each line is `+PID` or `-PID`, the leader of a process group. When the pipe
closes or the parent changes, every group still named gets SIGTERM at its leader, and SIGKILL as a whole a little later.

This file is started by its path under `python -I -S`: the standard library is all that it may import.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL: a database that is asked leaves no shared memory behind."""

LOOK_SECONDS = 0.5
"""How often the parent's id is compared: a forked sibling may hold the pipe open after the parent has died."""


class Guard:
    """The parent's end: says which process groups are to die with it."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # it outlives us by seconds: a reader of our output must not wait for it
            cwd="/",
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Return the guard's own process."""
        return self._process.pid

    def watch(self, leader: int) -> None:
        """Have the group of `leader` die with this process from here on. Raises BrokenPipeError if the guard was
        killed.
        """
        self._say(f"+{leader}\n")

    def forget(self, leader: int) -> None:
        """Forget the group of `leader`: it is gone. Its number may be another's soon."""
        with contextlib.suppress(BrokenPipeError):  # a guard that was killed remembers nothing
            self._say(f"-{leader}\n")

    def close(self) -> None:
        """Let the guard go. It ends what is still named, so forget first what is to live."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


def signal_process(pid: int, number: int) -> None:
    """Signal one process; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def signal_group(leader: int, number: int) -> None:
    """Signal a whole process group; one that is gone is no error (macOS says EPERM where only zombies are left)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def group_lives(leader: int) -> bool:
    """Return True if anything of the group is left. A zombie counts until it is reaped."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _watched_until_death(parent: int) -> set[int]:
    """Follow the pipe until the parent is dead; the groups it left."""
    groups: set[int] = set()
    rest = b""
    while True:
        if not select.select([0], [], [], LOOK_SECONDS)[0]:
            if os.getppid() != parent:
                return groups
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return groups
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            change = groups.add if line[:1] == b"+" else groups.discard
            change(int(line[1:]))


def main(parent: int) -> None:
    """Wait for the parent's death, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = _watched_until_death(parent)
    for leader in groups:
        signal_process(leader, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(group_lives(leader) for leader in groups):
        time.sleep(0.05)
    for leader in groups:
        signal_group(leader, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
