"""What bad luck and bad people do to rows. Each function breaks one key of a world and says which."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import update

from schemas.keys import KeyKind
from tests.engine import World
from workers.store import models


def flip(data: bytes, at: int = -1) -> bytes:
    """The same bytes with one bit flipped."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def set_row(world: World, table: Any, condition: Any, **values: Any) -> None:
    """Write into rows, past the engine."""
    with world.main.database.write() as connection:
        connection.execute(update(table).where(condition).values(**values))
    world.main.cache.clear()


def flip_data_key(world: World) -> UUID:
    """A bit of a data key's wrap."""
    row = next(row for row in world.rows(models.data_keys) if row["parent"] is not None)
    set_row(world, models.data_keys, models.data_keys.c.id == row["id"], wrapped=flip(row["wrapped"]))
    return UUID(str(row["key_id"]))


def flip_root_wrap(world: World, kind: KeyKind = KeyKind.DATA) -> UUID:
    """A bit of a root's wrap."""
    wrap = next(wrap for wrap in world.rows(models.root_wraps) if wrap["kind"] == kind)
    columns = models.root_wraps.c
    own = (columns.kind == kind) & (columns.key == wrap["key"])
    set_row(world, models.root_wraps, own, wrapped=flip(wrap["wrapped"]))
    table = models.data_keys if kind == KeyKind.DATA else models.wrapping_keys
    return next(UUID(str(row["key_id"])) for row in world.rows(table) if row["id"] == wrap["key"])
