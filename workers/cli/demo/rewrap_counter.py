"""Counts rewraps from outside the engine: a trigger in the demo's own database writes down every one."""

from __future__ import annotations

from workers.store.database import Database

_SCHEMA = (
    "CREATE TABLE demo_rewraps (key INTEGER NOT NULL, version INTEGER NOT NULL)",
    """CREATE TRIGGER demo_rewraps AFTER UPDATE OF parent_version ON data_keys
       BEGIN INSERT INTO demo_rewraps VALUES (new.id, new.parent_version); END""",
)

# A repack gives each wrapping key one version: a data key that moved twice under the same one was rewrapped twice.
_TWICE = "SELECT count(*) FROM (SELECT 1 FROM demo_rewraps GROUP BY key, version HAVING count(*) > 1)"
_CHILDREN = "SELECT count(*) FROM demo_rewraps JOIN data_keys ON data_keys.id = key WHERE parent IS NOT NULL"


def count_rewraps(database: Database) -> None:
    """Write down every rewrap of a data key from here on."""
    with database.write() as connection:
        for statement in _SCHEMA:
            connection.exec_driver_sql(statement)


def rewrapped_twice(database: Database) -> int:
    """Count the data keys that a repack rewrapped more than once."""
    with database.read() as connection:
        return int(connection.exec_driver_sql(_TWICE).scalar_one())


def rewraps_below_wrapping_keys(database: Database) -> int:
    """Rewraps of data keys below wrapping keys: what the workers counted must add up to it (R9)."""
    with database.read() as connection:
        return int(connection.exec_driver_sql(_CHILDREN).scalar_one())
