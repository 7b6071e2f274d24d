"""Files of secrets that only their owner can read, and whether one has changed since it was read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from workers.errors import NotConfigured


def stamp(path: Path, *, closed: str, remedy: str) -> tuple[int, ...]:
    """Return what changes when the file does: its identity, permissions, times and size. Raises NotConfigured."""
    try:
        found = path.stat()
    except OSError as error:
        raise NotConfigured(f"{closed}: {path}.", f"It cannot be read: {error.strerror}.", remedy) from error
    return (found.st_dev, found.st_ino, found.st_mode, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def read_private(path: Path, *, max_bytes: int, closed: str, remedy: str) -> bytes:
    """Read the file's content. Raises NotConfigured, beginning with `closed`, if others can reach it or it is too long.

    What is in the file never shows (R10).
    """
    try:
        with path.open("rb") as file:
            _require_private(path, os.fstat(file.fileno()), closed, remedy)
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise NotConfigured(f"{closed}: {path}.", f"It cannot be read: {error.strerror}.", remedy) from error
    if len(content) > max_bytes:
        raise NotConfigured(f"{closed}: {path}.", f"It is longer than {max_bytes} bytes.", remedy)
    return content


def _require_private(path: Path, found: os.stat_result, closed: str, remedy: str) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise NotConfigured(f"{closed}: {path}.", "It is not a file.", remedy)
    if mode & 0o077:
        why = f"Others can reach it: its mode is {mode:04o}."
        raise NotConfigured(f"{closed}: {path}.", why, f"Run `chmod 600 {path}`.")
