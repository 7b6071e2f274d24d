"""The fast path: what a page holds and what a swap changes, the same on both databases, odd rows too."""

from __future__ import annotations

import os
from typing import Any

import pytest

from schemas.envelope import WRAP_BYTES
from schemas.ranges import END, Cursor, Group, last_cursor
from tests.corruption import set_row
from tests.engine import World
from workers.store import models
from workers.store.models import data_keys


@pytest.fixture
def rows(world: World) -> list[dict[str, Any]]:
    """Two parents with nine data keys each, in order."""
    environment = world.environment()
    for parent in world.keyring.create_wrapping_keys(environment.environment_id, None, 2):
        world.keyring.create_data_keys(environment.environment_id, parent, 9)
    return sorted(world.rows(data_keys), key=lambda row: (row["parent"], row["id"]))


def read(world: World, *, after: Cursor = (0, 0), upto: Cursor = (END, END), limit: int = 100) -> list[Group]:
    """A page of level 2 of the only environment."""
    with world.main.database.read() as connection:
        return world.main.pages.read(connection, 1, 2, after=after, upto=upto, limit=limit)


def flat(groups: list[Group]) -> list[tuple[int, int, int, bytes, bytes, bytes]]:
    """A page as rows."""
    return [
        (group.parent, group.parent_version, row, bytes(key), bytes(born), bytes(wrap))
        for group in groups
        for row, key, born, wrap in zip(group.ids, group.key_ids, group.fingerprints, group.wraps, strict=True)
    ]


def expected(rows: list[dict[str, Any]]) -> list[tuple[int, int, int, bytes, bytes, bytes]]:
    """Rows as a page has them."""
    return [
        (r["parent"], r["parent_version"], r["id"], r["key_id"].bytes, r["fingerprint"], r["wrapped"] or b"")
        for r in rows
    ]


@pytest.mark.parametrize("limit", [1, 4, 9, 10, 100])
def test_pages_cover_everything_once(world: World, rows: list[dict[str, Any]], limit: int) -> None:
    """Page after page, every key comes once, in order, with its own bytes."""
    seen, cursor = [], (0, END)
    while groups := read(world, after=cursor, limit=limit):
        assert sum(len(group.ids) for group in groups) <= limit
        seen += flat(groups)
        cursor = last_cursor(groups)
    assert seen == expected(rows)


def test_a_page_keeps_within_its_range(world: World, rows: list[dict[str, Any]]) -> None:
    """After is left out, upto is taken in, in the middle of a parent as well."""
    first, last = rows[3], rows[12]
    found = flat(read(world, after=(first["parent"], first["id"]), upto=(last["parent"], last["id"])))
    assert found == expected(rows[4:13])


ODD = [None, b"", b"\x01", bytes(WRAP_BYTES - 1), bytes(WRAP_BYTES + 1), bytes(5 * WRAP_BYTES)]


@pytest.mark.parametrize("wrapped", ODD, ids=lambda wrap: "null" if wrap is None else f"{len(wrap)}_bytes")
def test_odd_rows_come_too(world: World, rows: list[dict[str, Any]], wrapped: bytes | None) -> None:
    """A row without a wrap, or with one that is no wrap, shifts nobody else's bytes and is not left out (R9)."""
    for odd in (rows[0], rows[4], rows[17]):
        odd["wrapped"] = wrapped
        set_row(world, data_keys, data_keys.c.id == odd["id"], wrapped=wrapped)
    assert sorted(flat(read(world))) == sorted(expected(rows))
    groups = read(world, limit=5)
    assert sorted(flat(groups)) == sorted(expected(rows[:5]))
    assert last_cursor(groups) == (rows[4]["parent"], rows[4]["id"])


def test_a_fingerprint_cut_short_comes_too(world: World, rows: list[dict[str, Any]]) -> None:
    """Nor does a row with an odd fingerprint shift anybody's bytes."""
    rows[2]["fingerprint"] = b"short"
    set_row(world, data_keys, data_keys.c.id == rows[2]["id"], fingerprint=b"short")
    assert sorted(flat(read(world))) == sorted(expected(rows))


def test_versions_are_grouped_apart(world: World, rows: list[dict[str, Any]]) -> None:
    """Keys of one parent under two of its versions are two groups; no key is in both or neither."""
    for row in rows[1:9:2]:
        row["parent_version"] = 2
        set_row(world, data_keys, data_keys.c.id == row["id"], parent_version=2)
    groups = read(world)
    assert {(group.parent, group.parent_version) for group in groups} == {
        (row["parent"], row["parent_version"]) for row in rows
    }
    assert sorted(flat(groups)) == sorted(expected(rows))


def test_swap_compares_before_it_sets(world: World, rows: list[dict[str, Any]]) -> None:
    """R2: only keys still at the old version are swapped, version and wrap at once; the count says how many."""
    for row in rows[:3]:
        set_row(world, data_keys, data_keys.c.id == row["id"], parent_version=9)
    before = {row["id"]: row for row in world.rows(data_keys)}
    ids = [row["id"] for row in reversed(rows)]
    wraps = {row: os.urandom(WRAP_BYTES) for row in ids}
    for swapped in (15, 0):
        with world.main.database.write() as connection:
            given = [wraps[row] for row in ids]
            assert world.main.pages.swap(connection, old=1, new=2, ids=ids, wraps=given) == swapped
    for row in world.rows(data_keys):
        if before[row["id"]]["parent_version"] == 9:
            assert row == before[row["id"]]
        else:
            assert (row["parent_version"], row["wrapped"]) == (2, wraps[row["id"]])


WALKED_OVER = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'data_keys'"
"""Rows of whole tables that this connection has read so far."""


def test_swap_does_not_believe_old_statistics(world: World, rows: list[dict[str, Any]]) -> None:
    """A database that was told that hardly a key is of the old version still looks each key up, and no table over."""
    if world.main.database.dialect != "postgresql":
        pytest.skip("SQLite updates by row id, one key after the other")
    ids = list(range(1000, 21_000))
    copies = (
        "INSERT INTO data_keys (id, key_id, environment, parent, level, parent_version, fingerprint)"
        " SELECT n, gen_random_uuid(), environment, parent, level, parent_version, fingerprint"
        f" FROM data_keys, generate_series({ids[0]}, {ids[-1]}) AS n WHERE data_keys.id = {rows[0]['id']}"
    )
    with world.main.database.write() as connection:
        connection.exec_driver_sql(copies)
        connection.exec_driver_sql("ANALYZE data_keys")
        connection.exec_driver_sql("UPDATE data_keys SET parent_version = 2")
    with world.main.database.write() as connection:
        before = connection.exec_driver_sql(WALKED_OVER).scalar_one()
        given = [os.urandom(WRAP_BYTES)] * 4000
        assert world.main.pages.swap(connection, old=2, new=3, ids=ids[:4000], wraps=given) == 4000
        assert connection.exec_driver_sql(WALKED_OVER).scalar_one() == before


def test_swap_of_nothing(world: World, rows: list[dict[str, Any]]) -> None:
    """An empty batch changes nothing."""
    before = world.dump()
    with world.main.database.write() as connection:
        assert world.main.pages.swap(connection, old=1, new=2, ids=[], wraps=[]) == 0
    assert world.dump() == before


def test_pages_of_one_environment(world: World, rows: list[dict[str, Any]]) -> None:
    """Another tenant's keys are in no page."""
    other = world.environment("other/production")
    parent = world.keyring.create_wrapping_key(other.environment_id)
    world.keyring.create_data_keys(other.environment_id, parent, 3)
    assert flat(read(world)) == expected(rows)
    assert len(world.rows(models.data_keys)) == len(rows) + 3
