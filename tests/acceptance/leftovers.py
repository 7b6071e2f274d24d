"""What a program left behind: its processes are known by a folder that is in their environment."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest


def processes_of(marker: str) -> list[str]:
    """Command lines of living processes whose environment holds `marker`. Skips where there is no /proc."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes are found by /proc")
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            if process.name.isdigit() and marker.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
