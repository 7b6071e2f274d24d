"""A small disk of its own, that a test fills up and makes room on again: a tmpfs, so that nothing else runs out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoDiskOfItsOwn(Exception):
    """This machine lets nobody mount one; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDisk:
    """A mounted tmpfs."""

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self, *, leaving: int = 0) -> None:
        """Take all the room there is, but for `leaving` bytes."""
        free = shutil.disk_usage(self.folder).free
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - leaving, 1))

    def make_room(self) -> None:
        """Give it back."""
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, *, megabytes: int, owner: int | None = None) -> Iterator[SmallDisk]:
    """A disk of so many megabytes at `folder`, for the length of a block. Raises NoDiskOfItsOwn."""
    if os.geteuid() != 0:
        raise NoDiskOfItsOwn("only root may mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    user = owner or 0
    options = f"size={megabytes}m,mode=0700,uid={user},gid={user}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        raise NoDiskOfItsOwn(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder=folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
