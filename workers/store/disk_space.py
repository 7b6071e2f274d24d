"""Checks disk space by taking some and giving it back, for no database says how full its disk is.

Nothing of the record is touched: a file beside SQLite's that is gone again, a temporary table of PostgreSQL's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from workers.errors import DatabaseAway, DatabaseFull
from workers.store.database import Database

ROOM_BYTES = 16 * 1024 * 1024
"""What a worker wants to find before it goes on: a few batches, and not the last page of the disk."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

_BALLAST = text(
    "create temporary table keyrepack_room on commit drop as"
    " select repeat(md5(part::text), 31) as ballast from generate_series(1, :parts) as part"
)
_PART_BYTES = 1000
"""Short enough that PostgreSQL does not compress it."""


def require_room(database: Database, *, wanted: int = ROOM_BYTES) -> None:
    """Raise DatabaseFull where `wanted` bytes more do not fit; DatabaseAway if that cannot be tried."""
    if database.dialect == "postgresql":
        # A role that may make no temporary table cannot tell: the run goes on, and is blocked again if need be.
        with contextlib.suppress(ProgrammingError), database.write() as connection:
            connection.execute(_BALLAST, {"parts": wanted // _PART_BYTES})
        return
    path = database.engine.url.database
    if path and path != ":memory:":
        _require_beside(Path(path).parent, wanted)


def _require_beside(folder: Path, wanted: int) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".keyrepack-room-") as file:
            os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DatabaseFull("Its disk is full.") from error
        raise DatabaseAway(f"Its folder takes no file: {error.strerror}.") from error
