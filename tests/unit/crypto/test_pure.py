"""The parts without a database: the planner, the hierarchy's rules, the cache, one key and one batch rewrapped."""

from __future__ import annotations

import itertools
import os
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import fingerprint
from schemas.hierarchy import Fault, Node, find_fault
from schemas.keys import MAX_LEVELS
from tests.corruption import flip
from workers.crypto.plaintext_cache import PlaintextCache
from workers.crypto.rewrap import open_wrap, refuse_group, rewrap_group, seal
from workers.errors import WrapReason, WrapRefused
from workers.repack.sharding import MAX_SHARDS, cut_children, shard_size_for
from workers.store.data_key_pages import END, Group

# The planner ---------------------------------------------------------------------------------------------------------

OWNER = UUID(int=1)
"""Whose plaintext it is."""


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(0, 60), max_size=12), size=st.integers(1, 15))
def test_ranges_touch_and_cover(counts: list[int], size: int) -> None:
    """Each key and each parent is in exactly one range; ranges touch, and are of about the size asked for."""
    parents = {2 * n + 2: [100 * n + key for key in range(count)] for n, count in enumerate(counts)}

    def split(parent: int, step: int) -> list[int]:
        keys = parents[parent]
        marks = keys[step - 1 :: step]
        return marks if marks and marks[-1] == keys[-1] else [*marks, keys[-1]]

    ranges = list(cut_children(((parent, len(keys)) for parent, keys in parents.items()), size=size, split=split))
    for before, after in itertools.pairwise(ranges):
        assert before.upto == after.after
    for parent, keys in parents.items():
        for place in [(parent, key) for key in keys] + [(parent, END)]:
            assert sum(part.after < place <= part.upto for part in ranges) == 1
    for part in ranges:
        inside = sum(part.after < (parent, key) <= part.upto for parent, keys in parents.items() for key in keys)
        assert inside == part.expected
        assert inside <= 2 * size


@given(keys=st.integers(0, 10**10), least=st.integers(1, 10**6))
def test_never_too_many_shards(keys: int, least: int) -> None:
    """A huge stage has larger shards, not more of them."""
    size = shard_size_for(keys, least=least)
    assert size >= least
    assert -(-keys // size) <= MAX_SHARDS


# The hierarchy -------------------------------------------------------------------------------------------------------


def tree(*places: tuple[int, int | None, int, int]) -> dict[int, Node]:
    """Nodes from (id, parent, level, environment)."""
    return {
        id: Node(id=id, key_id=uuid4(), parent=parent, level=level, environment=environment)
        for id, parent, level, environment in places
    }


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        (tree((1, None, 1, 1)), None),
        (tree((2, 1, 2, 1), (1, None, 1, 1)), None),
        (tree((1, None, 2, 1)), Fault.MISPLACED),
        (tree((2, 1, 3, 1), (1, None, 1, 1)), Fault.MISPLACED),
        (tree((2, 9, 2, 1)), Fault.ORPHAN),
        (tree((2, 1, 2, 1), (1, None, 1, 7)), Fault.FOREIGN),
        (tree((2, 2, 2, 1)), Fault.CYCLE),
        (tree((2, 1, 2, 1), (1, 2, 1, 1)), Fault.CYCLE),
        (tree((3, 2, 3, 1), (2, 1, 2, 1), (1, 2, 1, 1)), Fault.CYCLE),
        (tree((2, 1, MAX_LEVELS + 1, 1), (1, None, MAX_LEVELS, 1)), Fault.TOO_DEEP),
    ],
)
def test_faults_are_told_apart(nodes: dict[int, Node], fault: Fault | None) -> None:
    """Each way in which a key's place can be wrong has its name."""
    assert find_fault(next(iter(nodes.values())), nodes) == fault


# The cache -----------------------------------------------------------------------------------------------------------


class Time:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_read_never_prolongs_a_life() -> None:
    """R8: an entry's time is counted from when it was filled, whatever happens; at the end it is gone."""
    time = Time()
    cache: PlaintextCache[str] = PlaintextCache(ttl=300, size=10, clock=time)
    cache.put("key", b"material", environment=OWNER, epoch=0)
    for time.now in (1, 100, 299.9):
        assert cache.get("key", 0) == b"material"
    time.now = 300
    assert cache.get("key", 0) is None
    assert len(cache) == 0


def test_the_least_recently_used_goes_first() -> None:
    """The cache is bounded."""
    cache: PlaintextCache[int] = PlaintextCache(ttl=300, size=3, clock=Time())
    for key in (1, 2, 3):
        cache.put(key, bytes([key]), environment=OWNER, epoch=0)
    cache.get(1, 0)
    cache.put(4, b"\x04", environment=OWNER, epoch=0)
    assert [cache.get(key, 0) for key in (1, 2, 3, 4)] == [b"\x01", None, b"\x03", b"\x04"]
    cache.clear()
    assert len(cache) == 0


@pytest.mark.parametrize(("ttl", "size"), [(0, 10), (300, 0)])
def test_nothing_is_kept_where_nothing_may_be(ttl: float, size: int) -> None:
    """R8: a lifetime or a size of 0 keeps no plaintext."""
    cache: PlaintextCache[int] = PlaintextCache(ttl=ttl, size=size, clock=Time())
    cache.put(1, b"material", environment=OWNER, epoch=0)
    assert cache.get(1, 0) is None
    assert len(cache) == 0


def test_a_caches_repr_tells_nothing() -> None:
    """R10: neither keys nor material."""
    cache: PlaintextCache[int] = PlaintextCache(ttl=300, size=10, clock=Time())
    cache.put(1, b"material", environment=OWNER, epoch=0)
    assert repr(cache) == "PlaintextCache(1 entries)"


# One key, one batch --------------------------------------------------------------------------------------------------

ENVIRONMENT, PARENT, OLD, NEW = uuid4(), uuid4(), os.urandom(32), os.urandom(32)


def group(count: int) -> tuple[Group, list[bytes]]:
    """Keys under the old version, and their material."""
    keys, materials = [uuid4() for _ in range(count)], [os.urandom(32) for _ in range(count)]
    wraps = [
        seal(OLD, material, environment=ENVIRONMENT, key=key, parent=PARENT)
        for key, material in zip(keys, materials, strict=True)
    ]
    born = [fingerprint(material, ENVIRONMENT, key) for key, material in zip(keys, materials, strict=True)]
    return Group(1, 1, list(range(count)), [key.bytes for key in keys], born, wraps), materials


def test_only_the_wrapping_changes() -> None:
    """R6: each key's new wrap opens under the new version alone, to the same material."""
    keys, materials = group(5)
    done = rewrap_group(keys, old=OLD, new=NEW, environment=ENVIRONMENT, parent=PARENT)
    assert done.ids == list(range(5))
    assert not done.refused
    for row, wrap in zip(done.ids, done.wraps, strict=True):
        bound = {"environment": ENVIRONMENT, "key": UUID(bytes=keys.key_ids[row]), "parent": PARENT}
        born = keys.fingerprints[row]
        assert open_wrap(NEW, wrap, born_with=born, **bound) == materials[row]
        with pytest.raises(WrapRefused):
            open_wrap(OLD, wrap, born_with=born, **bound)
    assert repr(done.wraps[0]) not in repr(done)  # R10


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (lambda wrap: flip(wrap), WrapReason.DOES_NOT_OPEN),
        (lambda wrap: flip(wrap, 5), WrapReason.DOES_NOT_OPEN),
        (lambda wrap: flip(wrap, 0), WrapReason.MALFORMED),
        (lambda wrap: wrap[:-1], WrapReason.MALFORMED),
        (lambda _: b"", WrapReason.MALFORMED),
    ],
)
def test_a_refused_key_stops_nobody(wrap: object, reason: WrapReason) -> None:
    """R9: in a batch and alone a wrap that does not open is refused with the same reason; the others go on."""
    keys, _ = group(3)
    keys.wraps = [keys.wraps[0], wrap(keys.wraps[1]), keys.wraps[2]]  # type: ignore[operator]
    done = rewrap_group(keys, old=OLD, new=NEW, environment=ENVIRONMENT, parent=PARENT)
    assert done.ids == [0, 2]
    assert done.refused == [(1, keys.key_ids[1], reason)]
    with pytest.raises(WrapRefused) as refused:
        open_wrap(
            OLD, keys.wraps[1], environment=ENVIRONMENT, key=UUID(bytes=keys.key_ids[1]), parent=PARENT,
            born_with=keys.fingerprints[1],
        )  # fmt: skip
    assert refused.value.reason == reason


def test_other_material_than_born_with() -> None:
    """R6: a key that opens to other material than its fingerprint says is refused."""
    keys, _ = group(2)
    keys.fingerprints = [flip(keys.fingerprints[0]), keys.fingerprints[1]]
    done = rewrap_group(keys, old=OLD, new=NEW, environment=ENVIRONMENT, parent=PARENT)
    assert (done.ids, done.refused[0][2]) == ([1], WrapReason.WRONG_FINGERPRINT)


@pytest.mark.parametrize("moved", ["environment", "key", "parent"])
def test_a_wrap_opens_in_its_place_alone(moved: str) -> None:
    """R6: moved to another tenant, row or parent, it does not open."""
    place = {"environment": ENVIRONMENT, "key": uuid4(), "parent": PARENT}
    material = os.urandom(32)
    wrap = seal(OLD, material, **place)
    other = place | {moved: uuid4()}
    with pytest.raises(WrapRefused) as refused:
        open_wrap(OLD, wrap, born_with=fingerprint(material, other["environment"], other["key"]), **other)
    assert refused.value.reason == WrapReason.DOES_NOT_OPEN


def test_a_group_without_its_version_is_refused_whole() -> None:
    """R9: where the version they hang from does not open, every key is set aside, none is skipped."""
    keys, _ = group(3)
    done = refuse_group(keys, WrapReason.PARENT_DOES_NOT_OPEN)
    assert [row for row, _, _ in done.refused] == [0, 1, 2]
    assert not done.ids
