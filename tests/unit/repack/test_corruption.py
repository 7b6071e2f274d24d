"""One broken key: set aside with its reason, all others go on, and it holds back exactly what hangs on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from schemas.keys import KeyKind
from schemas.states import Mode, RepackState
from tests.corruption import flip, set_row
from tests.engine import World, chain_of_keys, usual_tree
from tests.oracle import Oracle
from workers.errors import HierarchyBroken, WrapReason
from workers.keyring.keyring import Keyring
from workers.repack.control import abort, retry
from workers.store import models
from workers.store.environments import Environment
from workers.store.models import data_keys, root_wraps, wrapping_keys, wrapping_versions
from workers.store.repacks import Repack

S = RepackState
Row = dict[str, Any]
Break = Callable[[World, Row, Row], None]


def quarantined(world: World) -> dict[UUID, WrapReason]:
    """Who is set aside now, and why."""
    return {row["key_id"]: WrapReason(row["reason"]) for row in world.rows(models.quarantine) if row["open"]}


# Data keys below a wrapping key --------------------------------------------------------------------------------------


def _set_data(world: World, row: Row, **values: Any) -> None:
    set_row(world, data_keys, data_keys.c.id == row["id"], **values)


def flipped_ciphertext(world: World, row: Row, _other: Row) -> None:
    """A bit of the ciphertext."""
    _set_data(world, row, wrapped=flip(row["wrapped"]))


def flipped_nonce(world: World, row: Row, _other: Row) -> None:
    """A bit of the nonce."""
    _set_data(world, row, wrapped=flip(row["wrapped"], 1))


def other_layout(world: World, row: Row, _other: Row) -> None:
    """A layout from the future."""
    _set_data(world, row, wrapped=b"\x02" + row["wrapped"][1:])


def cut_short(world: World, row: Row, _other: Row) -> None:
    """The last byte is missing."""
    _set_data(world, row, wrapped=row["wrapped"][:-1])


def too_long(world: World, row: Row, _other: Row) -> None:
    """A byte too many."""
    _set_data(world, row, wrapped=row["wrapped"] + b"\x00")


def empty(world: World, row: Row, _other: Row) -> None:
    """No bytes."""
    _set_data(world, row, wrapped=b"")


def null(world: World, row: Row, _other: Row) -> None:
    """No wrap at all."""
    _set_data(world, row, wrapped=None)


def of_another_row(world: World, row: Row, other: Row) -> None:
    """The wrap of the key beside it."""
    _set_data(world, row, wrapped=other["wrapped"])


def wrong_fingerprint(world: World, row: Row, _other: Row) -> None:
    """It opens, to other material than it says."""
    _set_data(world, row, fingerprint=flip(row["fingerprint"]))


def fingerprint_cut_short(world: World, row: Row, _other: Row) -> None:
    """A fingerprint that is none."""
    _set_data(world, row, fingerprint=row["fingerprint"][:-1])


def of_a_version_never_there(world: World, row: Row, _other: Row) -> None:
    """It claims a version of its parent that never was."""
    _set_data(world, row, parent_version=77)


BROKEN_DATA: list[tuple[Break, WrapReason]] = [
    (flipped_ciphertext, WrapReason.DOES_NOT_OPEN),
    (flipped_nonce, WrapReason.DOES_NOT_OPEN),
    (other_layout, WrapReason.MALFORMED),
    (cut_short, WrapReason.MALFORMED),
    (too_long, WrapReason.MALFORMED),
    (empty, WrapReason.MALFORMED),
    (null, WrapReason.MALFORMED),
    (of_another_row, WrapReason.DOES_NOT_OPEN),
    (wrong_fingerprint, WrapReason.WRONG_FINGERPRINT),
    (fingerprint_cut_short, WrapReason.WRONG_FINGERPRINT),
    (of_a_version_never_there, WrapReason.PARENT_MISSING),
]


@pytest.mark.parametrize(("damage", "reason"), BROKEN_DATA, ids=lambda part: getattr(part, "__name__", None))
def test_a_broken_data_key(world: World, damage: Break, reason: WrapReason) -> None:
    """R9: it is set aside with its reason; the others are rewrapped; it keeps only the version it hangs from."""
    environment = world.environment()
    usual_tree(world, environment)
    parents = chain_of_keys(world, environment, 3, jobs=4)
    row, other = (row for row in world.rows(data_keys) if row["level"] == 4 and row["id"] % 2 == 0)
    damage(world, row, other)
    below = sum(row["parent"] is not None for row in world.rows(data_keys))
    repack = world.repack(environment)
    assert repack.state == S.FINISHED_WITH_QUARANTINE
    assert quarantined(world) == {row["key_id"]: reason}
    shards = world.rows(models.shards)
    held = reason != WrapReason.PARENT_MISSING  # whether it names a version that it can hold back
    assert sum(shard["rewrapped"] for shard in shards if shard["stage"] == "renew") == below - 1
    assert sum(shard["rewrapped"] for shard in shards if shard["stage"] == "shred") == held  # that version, rehung
    assert sum(shard["quarantined"] for shard in shards) == 1
    assert all(s["seen"] == s["rewrapped"] + s["already_current"] + s["quarantined"] for s in shards)
    assert repack.move_closed_at is not None  # a key below does not hold up the move
    draining = [(v["wrapping_key"], v["version"]) for v in world.rows(wrapping_versions) if v["state"] == "draining"]
    deepest = next(key["id"] for key in world.rows(wrapping_keys) if key["key_id"] == parents[-1])
    # The version it hangs from stays, hung from the chain's active versions: the old ones above are shredded.
    assert draining == ([(deepest, 1)] if held else [])
    told = json.loads(world.rows(models.audit, models.audit.c.action == "key.quarantined")[0]["facts"])
    assert told["keys"] == 1

    if not held:
        return  # the version it did hang from was shredded: nothing said that it was needed
    _set_data(world, row, **{name: row[name] for name in ("wrapped", "fingerprint")})
    assert retry(world.main, repack, actor="operator").state == S.RENEWING
    assert world.run(repack).state == S.FINISHED
    assert not quarantined(world)
    Oracle(world, watching=False).check_ended(environment.id, "memory:b", deep=True)


def test_a_wrap_from_another_tenant(world: World) -> None:
    """R6: a row that was copied from another tenant's opens nothing there."""
    mine, theirs = world.environment(), world.environment("evil/production", "memory:e")
    usual_tree(world, mine, hours=1, jobs=3)
    usual_tree(world, theirs, hours=1, jobs=3)
    row = next(row for row in world.rows(data_keys) if row["environment"] == mine.id and row["parent"])
    foreign = next(row for row in world.rows(data_keys) if row["environment"] == theirs.id and row["parent"])
    _set_data(world, row, wrapped=foreign["wrapped"], fingerprint=foreign["fingerprint"])
    assert world.repack(mine).state == S.FINISHED_WITH_QUARANTINE
    assert quarantined(world) == {row["key_id"]: WrapReason.DOES_NOT_OPEN}
    assert world.repack(theirs, "memory:f").state == S.FINISHED  # a tenant's broken key is no other's concern


def test_a_wrap_under_another_parent(world: World) -> None:
    """R6: a key that was hung below another parent, wrap and all, does not open there."""
    environment = world.environment()
    usual_tree(world, environment, hours=2, jobs=3)
    first, second = sorted({row["parent"] for row in world.rows(data_keys) if row["parent"]})
    row = next(row for row in world.rows(data_keys) if row["parent"] == first)
    _set_data(world, row, parent=second)
    assert world.repack(environment).state == S.FINISHED_WITH_QUARANTINE
    assert quarantined(world) == {row["key_id"]: WrapReason.DOES_NOT_OPEN}


# Versions of wrapping keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lambda version: {"wrapped": flip(version["wrapped"])}, WrapReason.PARENT_DOES_NOT_OPEN),
        (lambda version: {"wrapped": version["wrapped"][:-1]}, WrapReason.PARENT_DOES_NOT_OPEN),
        (lambda version: {"fingerprint": flip(version["fingerprint"])}, WrapReason.PARENT_DOES_NOT_OPEN),
        (lambda version: {"wrapped": None}, WrapReason.PARENT_MISSING),
    ],
    ids=["flipped", "cut_short", "wrong_fingerprint", "null"],
)
def test_a_broken_wrapping_version(world: World, values: Callable[[Row], Row], reason: WrapReason) -> None:
    """Keys under a version that does not open are set aside, each of them; what hangs elsewhere goes on (R9)."""
    environment = world.environment()
    usual_tree(world, environment)
    parents = chain_of_keys(world, environment, 3, jobs=2)
    ids = {key["key_id"]: key["id"] for key in world.rows(wrapping_keys)}
    own = wrapping_versions.c.wrapping_key == ids[parents[1]]
    version = world.rows(wrapping_versions, own)[0]
    set_row(world, wrapping_versions, own, **values(version))
    repack = world.repack(environment)
    assert repack.state == S.FINISHED_WITH_QUARANTINE
    assert repack.move_closed_at is not None
    lost = [row["key_id"] for row in world.rows(data_keys) if row["parent"] in (ids[parents[1]], ids[parents[2]])]
    held = quarantined(world)
    assert set(lost) <= set(held)
    assert {held[key] for key in lost} <= {WrapReason.PARENT_DOES_NOT_OPEN, WrapReason.PARENT_MISSING}
    others = [r for r in world.rows(data_keys) if r["parent"] and r["key_id"] not in lost]
    active = {v["wrapping_key"]: v["version"] for v in world.rows(wrapping_versions) if v["state"] == "active"}
    assert all(row["parent_version"] == active[row["parent"]] for row in others)

    set_row(world, wrapping_versions, own & (wrapping_versions.c.version == 1), **_repaired(world, own, version))
    retry(world.main, repack, actor="operator")
    assert world.run(repack, world.process()).state == S.FINISHED
    Oracle(world, watching=False).check_ended(environment.id, "memory:b", deep=True)


def _repaired(world: World, own: Any, version: Row) -> Row:
    """What the row held before, if nothing moved it meanwhile."""
    now = next(row for row in world.rows(wrapping_versions, own) if row["version"] == 1)
    assert now["parent_version"] == version["parent_version"], "a version that does not open was moved"
    return {"wrapped": version["wrapped"], "fingerprint": version["fingerprint"]}


# Roots ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", list(KeyKind))
@pytest.mark.parametrize("damage", ["flipped", "cut_short", "swapped", "gone"])
def test_a_broken_root(world: World, kind: KeyKind, mode: Mode, damage: str) -> None:
    """A quarantined root keeps the move open and the old main key in force beside the new one; a retry closes it."""
    environment = world.environment()
    known = usual_tree(world, environment)
    wrap, other = [row for row in world.rows(root_wraps) if row["kind"] == kind][:2]
    _damage_root(world, wrap, other, damage)
    repack = world.repack(environment, "memory:b", mode)
    assert repack.state == S.FINISHED_WITH_QUARANTINE
    assert repack.move_closed_at is None
    assert repack.certificate is None  # the old main key is still needed: nobody is told otherwise
    tops = {top["main_key"]: top["state"] for top in world.rows(models.top_versions)}
    assert tops == {"memory:a": "draining", "memory:b": "active"}
    table = data_keys if kind == KeyKind.DATA else wrapping_keys
    broken = next(row["key_id"] for row in world.rows(table) if row["id"] == wrap["key"])
    reasons = {
        "flipped": WrapReason.DOES_NOT_OPEN,
        "cut_short": WrapReason.MALFORMED,
        "swapped": WrapReason.DOES_NOT_OPEN,
        "gone": WrapReason.PARENT_MISSING,
    }
    assert quarantined(world)[broken] == reasons[damage]
    lost = {row["key_id"] for row in world.rows(data_keys) if kind == KeyKind.WRAPPING and row["parent"] == wrap["key"]}
    fresh = Keyring(world.process())
    for key, material in known.items():
        if key not in lost | {broken}:
            assert fresh.unwrap(key) == material

    _repair_root(world, wrap)
    assert retry(world.main, repack, actor="operator").state == S.MOVING
    assert world.run(repack, world.process()).state == S.FINISHED
    assert world.look(repack).certificate is not None
    Oracle(world, watching=False).check_ended(environment.id, "memory:b", deep=mode == Mode.DEEP)
    fresh = Keyring(world.process())
    assert {key: fresh.unwrap(key) for key in known} == known


@pytest.mark.parametrize("mode", list(Mode))
def test_abort_after_a_quarantined_root(world: World, mode: Mode) -> None:
    """As long as a quarantined root keeps the move open, the way back to the old main key is open too."""
    environment = world.environment()
    known = usual_tree(world, environment)
    wrap, other = [row for row in world.rows(root_wraps) if row["kind"] == KeyKind.DATA][:2]
    _damage_root(world, wrap, other, "flipped")
    repack = world.repack(environment, "memory:b", mode)
    assert abort(world.main, repack, actor="operator").state == S.ABORTED
    world.kms.delete("b")
    _repair_root(world, wrap)
    Oracle(world, watching=False).check_ended(environment.id, "memory:a", deep=False)
    fresh = Keyring(world.process())
    assert {key: fresh.unwrap(key) for key in known} == known


def test_a_quarantined_root_and_a_third_main_key(world: World) -> None:
    """A move that a broken root keeps open is closed by the next one, from both main keys, once the row is repaired."""
    environment = world.environment()
    known = usual_tree(world, environment)
    wrap, other = [row for row in world.rows(root_wraps) if row["kind"] == KeyKind.DATA][:2]
    _damage_root(world, wrap, other, "flipped")
    assert world.repack(environment).state == S.FINISHED_WITH_QUARANTINE
    _repair_root(world, wrap)
    assert world.repack(environment, "memory:c").state == S.FINISHED
    assert not quarantined(world)
    Oracle(world, watching=False).check_ended(environment.id, "memory:c", deep=True)
    world.kms.delete("a")
    world.kms.delete("b")
    fresh = Keyring(world.process())
    assert {key: fresh.unwrap(key) for key in known} == known


def test_aborted_with_two_open_moves(world: World) -> None:
    """An abort leaves each root under the newest top it has a wrap of, with an older move still open."""
    environment = world.environment()
    usual_tree(world, environment)
    wrap, other = [row for row in world.rows(root_wraps) if row["kind"] == KeyKind.DATA][:2]
    _damage_root(world, wrap, other, "flipped")
    world.repack(environment)
    _repair_root(world, wrap)
    repack = world.start(environment, "memory:c")
    abort(world.main, repack, actor="operator")
    for row in world.rows(data_keys):
        if row["parent"] is None:
            under = [w["top_version"] for w in world.rows(root_wraps) if w["kind"] == "data" and w["key"] == row["id"]]
            assert row["parent_version"] == max(under)


def _damage_root(world: World, wrap: Row, other: Row, damage: str) -> None:
    columns = root_wraps.c
    own = (columns.kind == wrap["kind"]) & (columns.key == wrap["key"]) & (columns.top_version == wrap["top_version"])
    if damage == "gone":
        with world.main.database.write() as connection:
            connection.execute(root_wraps.delete().where(own))
        world.main.cache.clear()
        return
    wrapped = {"flipped": flip(wrap["wrapped"]), "cut_short": wrap["wrapped"][:-1], "swapped": other["wrapped"]}[damage]
    set_row(world, root_wraps, own, wrapped=wrapped)


def _repair_root(world: World, wrap: Row) -> None:
    columns = root_wraps.c
    own = (columns.kind == wrap["kind"]) & (columns.key == wrap["key"]) & (columns.top_version == wrap["top_version"])
    with world.main.database.write() as connection:
        connection.execute(root_wraps.delete().where(own))
        connection.execute(root_wraps.insert().values(**wrap))


# After a quarantine --------------------------------------------------------------------------------------------------


def _deep_with_a_broken_key(world: World) -> tuple[Environment, Repack, Row]:
    environment = world.environment()
    usual_tree(world, environment)
    row = next(row for row in world.rows(data_keys) if row["parent"] is not None)
    _set_data(world, row, wrapped=flip(row["wrapped"]))
    return environment, world.repack(environment), row


def test_a_shallow_repack_neither_forgets_nor_owns_what_a_deep_one_set_aside(world: World) -> None:
    """R9: keys that an earlier repack set aside are not this one's count, and stay known until they are rewrapped."""
    environment, _, row = _deep_with_a_broken_key(world)
    world.kms.rotate("b")
    shallow = world.repack(environment, None, Mode.SHALLOW)
    assert shallow.state == S.FINISHED
    assert quarantined(world) == {row["key_id"]: WrapReason.DOES_NOT_OPEN}


def test_the_next_deep_repack_tries_again(world: World) -> None:
    """A key that was repaired without a retry is taken along by the next deep repack, which ends well."""
    environment, _, row = _deep_with_a_broken_key(world)
    _set_data(world, row, wrapped=row["wrapped"])
    assert world.repack(environment, "memory:c").state == S.FINISHED
    assert not quarantined(world)
    Oracle(world, watching=False).check_ended(environment.id, "memory:c", deep=True)


def test_the_next_deep_repack_sets_it_aside_again(world: World) -> None:
    """A key that is still broken is counted and named by the next deep repack as well (R9)."""
    environment, _, row = _deep_with_a_broken_key(world)
    again = world.repack(environment, "memory:c")
    assert again.state == S.FINISHED_WITH_QUARANTINE
    assert quarantined(world) == {row["key_id"]: WrapReason.DOES_NOT_OPEN}
    assert [held["repack"] for held in world.rows(models.quarantine) if held["open"]] == [again.id]


# The hierarchy as such -----------------------------------------------------------------------------------------------


def _orphan(world: World, ids: list[int]) -> int:
    set_row(world, wrapping_keys, wrapping_keys.c.id == ids[1], parent=999_999)
    return ids[1]


def _cycle(world: World, ids: list[int]) -> int:
    set_row(world, wrapping_keys, wrapping_keys.c.id == ids[0], parent=ids[2])
    return ids[0]


def _misplaced(world: World, ids: list[int]) -> int:
    set_row(world, wrapping_keys, wrapping_keys.c.id == ids[1], level=3)
    return ids[1]


def _too_deep(world: World, ids: list[int]) -> int:
    for level, key in enumerate(ids, 7):
        set_row(world, wrapping_keys, wrapping_keys.c.id == key, level=level)
    with world.main.database.write() as connection:
        for level in range(1, 7):
            own = {"key_id": uuid4(), "environment": 1, "level": level, "id": 900 + level}
            above = None if level == 1 else 900 + level - 1
            connection.execute(wrapping_keys.insert().values(parent=above, **own))
    set_row(world, wrapping_keys, wrapping_keys.c.id == ids[0], parent=906)
    return ids[2]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [(_orphan, "orphan"), (_cycle, "cycle"), (_misplaced, "misplaced"), (_too_deep, "too_deep")],
    ids=["orphan", "cycle", "misplaced", "too_deep"],
)
def test_a_broken_hierarchy_is_named_at_planning(world: World, damage: Callable[..., int], fault: str) -> None:
    """A hierarchy that is no tree is refused before anything changes, and the keys are named."""
    environment = world.environment()
    usual_tree(world, environment)
    parents = chain_of_keys(world, environment, 3)
    rows = {row["key_id"]: row["id"] for row in world.rows(wrapping_keys)}
    broken = damage(world, [rows[parent] for parent in parents])
    before = world.dump()
    with pytest.raises(HierarchyBroken) as refused:
        world.start(environment)
    assert refused.value.fault == fault
    names = {row["id"]: row["key_id"] for row in world.rows(wrapping_keys)}
    assert names[broken] in refused.value.keys
    assert str(names[broken]) in str(refused.value)
    assert world.dump() == before


def test_a_foreign_parent_is_named_at_planning(world: World) -> None:
    """A key below another tenant's is refused and named."""
    mine, theirs = world.environment(), world.environment("evil/production")
    parents = chain_of_keys(world, mine, 2)
    foreign = chain_of_keys(world, theirs, 1)[0]
    rows = {row["key_id"]: row["id"] for row in world.rows(wrapping_keys)}
    set_row(world, wrapping_keys, wrapping_keys.c.id == rows[parents[1]], parent=rows[foreign])
    before = world.dump()
    with pytest.raises(HierarchyBroken) as refused:
        world.start(mine)
    assert (refused.value.fault, refused.value.keys) == ("foreign", [parents[1]])
    assert world.dump() == before


@pytest.mark.parametrize("values", [{"parent": 999_999}, {"level": 5}], ids=["orphan", "misplaced"])
def test_an_orphaned_data_key_is_named_at_planning(world: World, values: Row) -> None:
    """A data key without its parent is refused and named; a deep repack would not come by it."""
    environment = world.environment()
    usual_tree(world, environment)
    row = next(row for row in world.rows(data_keys) if row["parent"] is not None)
    _set_data(world, row, **values)
    before = world.dump()
    with pytest.raises(HierarchyBroken) as refused:
        world.start(environment)
    assert refused.value.keys == [row["key_id"]]
    assert world.dump() == before
