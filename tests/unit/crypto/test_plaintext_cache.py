"""The plaintext cache: bounded in time and size, and silent."""

from __future__ import annotations

from uuid import UUID

import pytest

from workers.crypto.plaintext_cache import PlaintextCache

OWNER = UUID(int=1)


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
