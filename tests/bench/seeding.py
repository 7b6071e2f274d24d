"""Data keys by the million: real ones, sealed as the keyring seals them, and stored by the way a restore would take."""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text

from schemas.envelope import (
    FINGERPRINT_BYTES,
    LAYOUT_1,
    NONCE_BYTES,
    WRAP_BYTES,
    associated_prefix,
    fingerprint_prefix,
)
from schemas.keys import KEY_BYTES
from workers.keyring.minting import material_of
from workers.services import Services
from workers.store.database import Connection
from workers.store.environments import Environment
from workers.store.keys import WrappingKeyRow, find_wrapping_key
from workers.store.models import data_keys

AT_ONCE = 20_000
"""Keys made before they are sent: a few megabytes."""

NEEDED = 16 + KEY_BYTES + NONCE_BYTES
"""Random bytes a key."""

Row = tuple[bytes, bytes, bytes]
"""Key id, fingerprint, wrap."""


def seed_data_keys(services: Services, environment: Environment, parents: list[UUID], count: int) -> None:
    """`count` data keys, spread evenly below these wrapping keys."""
    with services.database.read() as connection:
        above = [find_wrapping_key(connection, parent) for parent in parents]
    pairs = [(row.id, row.active_version or 0) for row in above]
    opened = services.key_opener.open(environment.environment_id, pairs)
    with services.database.write() as connection, _without_indexes(connection):
        for number, (row, pair) in enumerate(zip(above, pairs, strict=True)):
            left = count // len(above) + (number < count % len(above))
            while left:
                some = min(left, AT_ONCE)
                _store(connection, environment, row, _make(environment, row, material_of(opened[pair]), some))
                left -= some
    if services.database.dialect == "postgresql":
        with services.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE) data_keys"))


def _make(environment: Environment, above: WrappingKeyRow, material: bytes, count: int) -> Iterator[Row]:
    """Keys sealed once and not opened again: every bench verifies all of them at its end."""
    seal = AESGCM(material).encrypt
    bound_to, parent_id = associated_prefix(environment.environment_id), above.key_id.bytes
    fingerprinted = fingerprint_prefix(environment.environment_id)
    random = os.urandom(NEEDED * count)
    for at in range(0, len(random), NEEDED):
        key_id = UUID(bytes=random[at : at + 16], version=4).bytes
        own, nonce = random[at + 16 : at + 48], random[at + 48 : at + NEEDED]
        born_with = hmac.digest(own, fingerprinted + key_id, "sha256")[:FINGERPRINT_BYTES]
        yield key_id, born_with, LAYOUT_1 + nonce + seal(nonce, own, bound_to + key_id + parent_id)


def _store(connection: Connection, environment: Environment, above: WrappingKeyRow, rows: Iterator[Row]) -> None:
    driver: Any = connection.connection.driver_connection
    level, version = above.level + 1, above.active_version or 0
    names = "key_id, fingerprint, wrapped, environment, parent, level, parent_version"
    if connection.dialect.name == "sqlite":
        place = f"{environment.id}, {above.id}, {level}, {version}"
        driver.executemany(f"INSERT INTO data_keys ({names}) VALUES (?, ?, ?, {place})", rows)
        return
    # PostgreSQL's binary form: the number of columns, then each value after its length.
    place = struct.pack(">iqiqihii", 8, environment.id, 8, above.id, 2, level, 4, version)
    pack = struct.Struct(f">hi16si{FINGERPRINT_BYTES}si{WRAP_BYTES}s").pack
    body = b"".join(
        pack(7, 16, key_id, FINGERPRINT_BYTES, born_with, WRAP_BYTES, wrap) + place for key_id, born_with, wrap in rows
    )
    with driver.cursor() as cursor, cursor.copy(f"COPY data_keys ({names}) FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + body + struct.pack(">h", -1))


@contextmanager
def _without_indexes(connection: Connection) -> Iterator[None]:
    """PostgreSQL builds an index of millions of random ids faster than it keeps one."""
    if connection.dialect.name == "sqlite":
        yield
        return
    connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
    connection.execute(text("ALTER TABLE data_keys DROP CONSTRAINT uq_data_keys_key_id"))
    indexes = [index for index in data_keys.indexes if index.name == "ix_data_keys_walk"]
    for index in indexes:
        index.drop(connection)
    yield
    connection.execute(text("ALTER TABLE data_keys ADD CONSTRAINT uq_data_keys_key_id UNIQUE (key_id)"))
    for index in indexes:
        index.create(connection)
