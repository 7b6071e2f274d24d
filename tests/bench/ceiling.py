"""The ceiling: all that R6 asks of a key (open, fingerprint, seal, open and compare), one process, no database."""

from __future__ import annotations

import os
import time
from uuid import uuid4

from schemas.envelope import fingerprint
from schemas.ranges import Group
from workers.crypto.rewrap import rewrap_group, seal

KEYS_IN_GROUP = 4000


def measure_ceiling(seconds: float = 2.0) -> float:
    """Keys a second of the walk's own loop over keys that are in memory already."""
    environment, parent, old, new = uuid4(), uuid4(), os.urandom(32), os.urandom(32)
    group = Group(1, 1, [], [], [], [])
    for row in range(KEYS_IN_GROUP):
        key, material = uuid4(), os.urandom(32)
        columns = (group.ids, group.key_ids, group.fingerprints, group.wraps)
        wrap = seal(old, material, environment=environment, key=key, parent=parent)
        for column, value in zip(columns, (row, key.bytes, fingerprint(material, environment, key), wrap), strict=True):
            column.append(value)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        done += len(rewrap_group(group, old=old, new=new, environment=environment, parent=parent).ids)
    return done / passed
