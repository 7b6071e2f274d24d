"""One key and one batch of keys rewrapped: only the wrapping changes, and a bad key stops no other."""

from __future__ import annotations

import os
from uuid import UUID, uuid4

import pytest

from schemas.envelope import fingerprint
from schemas.ranges import Group
from tests.corruption import flip
from workers.crypto.rewrap import open_wrap, refuse_group, rewrap_group, seal
from workers.errors import WrapReason, WrapRefused

# The planner ---------------------------------------------------------------------------------------------------------

OWNER = UUID(int=1)
"""Whose plaintext it is."""


# The hierarchy -------------------------------------------------------------------------------------------------------


# The cache -----------------------------------------------------------------------------------------------------------


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
