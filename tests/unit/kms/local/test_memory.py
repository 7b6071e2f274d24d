"""What is the in-memory KMS's alone: its faults, hooks and randomness."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from schemas.keys import MainKeyUri
from workers.errors import Cause, KmsRefused, KmsThrottled, KmsUnreachable
from workers.kms.local.memory import MemoryKms

URI = MainKeyUri.parse("memory:a")
MATERIAL = bytes(range(32))


def test_a_key_comes_into_being_when_it_is_named() -> None:
    """No key has to be made first; two providers share nothing."""

    async def play() -> None:
        first, second = MemoryKms().main_key(URI), MemoryKms().main_key(URI)
        wrap = await first.wrap(MATERIAL, {})
        assert (await first.unwrap(wrap.blob, {})).material == MATERIAL
        with pytest.raises(Exception, match="does not open"):
            await second.unwrap(wrap.blob, {})

    asyncio.run(play())


def test_a_key_that_comes_into_being_is_whole_to_other_threads() -> None:
    """Whoever names a key while another thread makes it does not find one without material: that is a deleted one."""
    found: list[str | None] = []

    def random_bytes(size: int) -> bytes:
        if not found:
            found.append(None)
            other = threading.Thread(target=lambda: found.append(asyncio.run(kms.main_key(URI).describe()).generation))
            other.start()
            other.join(10)
        return bytes(size)

    kms = MemoryKms(random_bytes=random_bytes)
    own = asyncio.run(kms.main_key(URI).describe()).generation
    assert found == [None, own]


def test_injected_randomness_makes_it_repeatable() -> None:
    """With the same source of randomness the same calls make the same bytes, and generations still differ."""

    async def play() -> list[Any]:
        kms = MemoryKms(random_bytes=lambda size: b"\x07" * size)
        key = kms.main_key(URI)
        _, wrap = await key.generate({})
        assert kms.rotate("a") != wrap.generation
        return [wrap.blob, wrap.generation, (await key.describe()).generation]

    assert asyncio.run(play()) == asyncio.run(play())


@pytest.mark.parametrize(("fault", "error"), [("unreachable", KmsUnreachable), ("throttle", KmsThrottled)])
def test_a_counted_fault_ends_by_itself(fault: str, error: type[Exception]) -> None:
    """A fault of two times befalls two calls; one without end is ended by zero."""
    kms = MemoryKms()
    key = kms.main_key(URI)

    async def play() -> None:
        getattr(kms, fault)("a", 2)
        for _ in range(2):
            with pytest.raises(error):
                await key.describe()
        await key.describe()
        getattr(kms, fault)("a")
        for _ in range(5):
            with pytest.raises(error):
                await key.describe()
        getattr(kms, fault)("a", 0)
        await key.describe()

    asyncio.run(play())


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_can_be_switched_on(cause: Cause) -> None:
    """A state is any cause: those that are no answer raise as such, every other as a refusal."""
    kms = MemoryKms()
    key = kms.main_key(URI)

    async def play() -> None:
        kms.set_state("a", cause)
        with pytest.raises((KmsRefused, KmsUnreachable)) as caught:
            await key.describe()
        assert caught.value.cause is cause
        kms.set_state("a", None)
        await key.describe()

    asyncio.run(play())


def test_a_deleted_key_stays_deleted() -> None:
    """Nothing brings a deleted key back: neither a state, nor a rotation."""
    kms = MemoryKms()

    async def play() -> None:
        kms.delete("a")
        kms.set_state("a", None)
        with pytest.raises(KmsRefused) as caught:
            await kms.main_key(URI).describe()
        assert caught.value.cause is Cause.DELETED
        with pytest.raises(KmsRefused):
            kms.rotate("a")

    asyncio.run(play())


def test_faults_are_of_one_key() -> None:
    """A fault of one key leaves the others alone."""
    kms = MemoryKms()
    kms.set_state("a", Cause.DISABLED)
    kms.unreachable("b")
    asyncio.run(kms.main_key(MainKeyUri.parse("memory:c")).describe())


def test_a_hook_is_awaited_before_its_operation() -> None:
    """A hook sees operation and key before anything happens, may change the world or raise, and can be taken off."""
    kms, seen = MemoryKms(), []
    key = kms.main_key(URI)

    async def rotate(operation: str, name: str) -> None:
        seen.append((operation, name))
        kms.rotate(name)

    async def play() -> None:
        before = (await key.describe()).generation
        kms.before("wrap", rotate)
        wrap = await key.wrap(MATERIAL, {})
        assert wrap.generation == (await key.describe()).generation != before
        kms.before("wrap", None)
        await key.wrap(MATERIAL, {})

    asyncio.run(play())
    assert seen == [("wrap", "a")]


def test_calls_are_counted_by_the_ports_operations() -> None:
    """Each operation counts once, refused or not; a rewrap is one call."""
    kms = MemoryKms()
    key = kms.main_key(URI)

    async def play() -> None:
        _, wrap = await key.generate({})
        await key.rewrap(wrap.blob, {}, URI)
        kms.set_state("a", Cause.DENIED)
        with pytest.raises(KmsRefused):
            await key.describe()

    asyncio.run(play())
    assert kms.calls == {"generate": 1, "rewrap": 1, "describe": 1}
