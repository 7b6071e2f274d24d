"""What every adapter of the port does with wraps."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.contract.kms.conftest import ENVIRONMENT, move
from workers.errors import WrapReason, WrapRefused
from workers.kms.port import MainKey, encryption_context

MATERIAL = bytes(range(32))

many_keys = pytest.mark.parametrize("rig", ["memory", "aws", "openbao", "uploaded"], indirect=True)
rotating = pytest.mark.parametrize("rig", ["memory", "managed", "aws", "openbao"], indirect=True)
hiding = pytest.mark.parametrize("rig", ["memory", "aws"], indirect=True)


def new_context() -> dict[str, str]:
    return encryption_context(ENVIRONMENT, uuid4())


async def refusal(key: MainKey, blob: bytes, context: dict[str, str]) -> WrapRefused:
    with pytest.raises(WrapRefused) as caught:
        await key.unwrap(blob, context)
    return caught.value


def test_a_wrap_opens_to_what_was_wrapped(rig: Any) -> None:
    """What was wrapped under a context opens under that context, and tells the generation that wrapped it."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, context)
        opened = await key.unwrap(wrap.blob, context)
        assert opened.material == MATERIAL
        assert opened.generation == wrap.generation == (await key.describe()).generation
        assert wrap.generation

    rig.run(play)


def test_generated_material_is_fresh_and_opens(rig: Any) -> None:
    """Generated material is 32 bytes, another each time, and its wrap opens to it."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        made, wrap = await key.generate(context)
        other, _ = await key.generate(context)
        assert len(made.material) == 32
        assert made.material != other.material
        assert made.generation == wrap.generation
        assert (await key.unwrap(wrap.blob, context)).material == made.material

    rig.run(play)


def test_the_order_of_a_context_does_not_matter(rig: Any) -> None:
    """A context is a mapping: the same entries in another order open the wrap."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, context)
        turned = dict(reversed(context.items()))
        assert (await key.unwrap(wrap.blob, turned)).material == MATERIAL

    rig.run(play)


@pytest.mark.parametrize("change", ["other key", "other environment", "entry missing", "entry added", "empty"])
def test_a_wrap_does_not_open_under_another_context(rig: Any, change: str) -> None:
    """A wrap that was moved to another row or tenant does not open (R6)."""
    key, context = rig.new_key(), new_context()
    other = {
        "other key": {**context, "keyrepack:key": str(uuid4())},
        "other environment": {**context, "keyrepack:environment": str(uuid4())},
        "entry missing": {"keyrepack:key": context["keyrepack:key"]},
        "entry added": {**context, "more": "x"},
        "empty": {},
    }[change]

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, context)
        assert (await refusal(key, wrap.blob, other)).reason is WrapReason.DOES_NOT_OPEN

    rig.run(play)


def test_no_flipped_bit_opens(rig: Any) -> None:
    """A wrap with one bit flipped, wherever, does not open."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, context)).blob
        for place in range(0, len(blob), 3):
            flipped = bytearray(blob)
            flipped[place] ^= 1 << (place % 8)
            await refusal(key, bytes(flipped), context)

    rig.run(play)


def test_no_cut_wrap_opens(rig: Any) -> None:
    """A wrap cut short anywhere, or with a byte too many, does not open."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, context)).blob
        for length in [0, 1, 2, 5, len(blob) // 2, len(blob) - 17, len(blob) - 1]:
            await refusal(key, blob[:length], context)
        await refusal(key, blob + b"\x00", context)

    rig.run(play)


@pytest.mark.parametrize("size", [1, 61, 108, 6144, 6145, 100_000])
def test_foreign_bytes_do_not_open(rig: Any, size: int) -> None:
    """Bytes that are nobody's wrap are refused, whatever their length."""
    key = rig.new_key()
    foreign = (rig.foreign_blob * (size // len(rig.foreign_blob) + 1))[:size]
    rig.run(lambda: refusal(key, foreign, new_context()))


@many_keys
def test_another_keys_wrap_does_not_open(rig: Any) -> None:
    """A wrap of one main key does not open under another of the same KMS."""
    mine, other, context = rig.new_key(), rig.new_key(), new_context()

    async def play() -> None:
        wrap = await other.wrap(MATERIAL, context)
        assert (await refusal(mine, wrap.blob, context)).reason is WrapReason.DOES_NOT_OPEN

    rig.run(play)


def test_who_rewraps_inside_says_so(rig: Any) -> None:
    """A KMS that moves its own wraps with their plaintext inside says so, and no other does."""
    key = rig.new_key()
    assert key.can_rewrap_from(key.uri) == (key.uri.scheme in {"memory", "managed", "aws-kms"})


@rotating
def test_after_a_rotation_old_wraps_open_and_new_ones_are_of_the_new_generation(rig: Any) -> None:
    """A rotation changes the generation that wraps, and takes nothing away."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        old = await key.wrap(MATERIAL, context)
        rig.rotate(key.uri)
        described = await key.describe()
        new, (_, generated) = await key.wrap(MATERIAL, context), await key.generate(context)
        assert old.generation != described.generation == new.generation == generated.generation
        opened = await key.unwrap(old.blob, context)
        assert (opened.material, opened.generation) == (MATERIAL, old.generation)

    rig.run(play)


@rotating
def test_a_rewrap_moves_an_old_generations_wrap_to_the_new(rig: Any) -> None:
    """After a rotation a wrap is rewrapped from its own key: same material, new generation, other bytes."""
    key, context = rig.new_key(), new_context()

    async def play() -> None:
        old = await key.wrap(MATERIAL, context)
        rig.rotate(key.uri)
        new = await move(old.blob, context, key, key)
        assert new.generation == (await key.describe()).generation != old.generation
        assert new.blob != old.blob
        assert (await key.unwrap(new.blob, context)).material == MATERIAL

    rig.run(play)


@many_keys
def test_a_rewrap_moves_a_wrap_between_keys(rig: Any) -> None:
    """A wrap moves to another key of the same KMS, opens there, and stays bound to its context."""
    old_key, new_key, context = rig.new_key(), rig.new_key(), new_context()

    async def play() -> None:
        old = await old_key.wrap(MATERIAL, context)
        new = await move(old.blob, context, old_key, new_key)
        assert (await new_key.unwrap(new.blob, context)).material == MATERIAL
        assert new.generation == (await new_key.describe()).generation
        await refusal(old_key, new.blob, context)
        await refusal(new_key, new.blob, new_context())

    rig.run(play)


@many_keys
@pytest.mark.parametrize("fault", ["flipped", "other context", "not the source's", "cut", "empty"])
def test_a_wrap_that_does_not_open_is_not_rewrapped(rig: Any, fault: str) -> None:
    """A corrupt or foreign wrap is refused as such, not moved."""
    old_key, new_key, context = rig.new_key(), rig.new_key(), new_context()

    async def play() -> None:
        blob = (await (new_key if fault == "not the source's" else old_key).wrap(MATERIAL, context)).blob
        blob = {"flipped": blob[:-1] + bytes([blob[-1] ^ 1]), "cut": blob[:-1], "empty": b""}.get(fault, blob)
        with pytest.raises(WrapRefused):
            await move(blob, new_context() if fault == "other context" else context, old_key, new_key)

    rig.run(play)


def test_an_empty_context_is_a_context(rig: Any) -> None:
    """A wrap without context opens without one, and with no other."""
    key = rig.new_key()

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, {})
        assert (await key.unwrap(wrap.blob, {})).material == MATERIAL
        await refusal(key, wrap.blob, new_context())

    rig.run(play)


@hiding
def test_a_hidden_generation_is_none_everywhere(rig: Any) -> None:
    """Where the KMS does not tell the generation, everything works and every generation is None."""
    key, context = rig.new_key(), new_context()
    rig.hide_generation(key.uri)

    async def play() -> None:
        made, wrap = await key.generate(context)
        rewrapped = await key.rewrap(wrap.blob, context, key.uri)
        wrapped, opened = await key.wrap(MATERIAL, context), await key.unwrap(rewrapped.blob, context)
        assert opened.material == made.material
        told = {each.generation for each in (made, wrap, rewrapped, wrapped, opened, await key.describe())}
        assert told == {None}

    rig.run(play)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_only_keys_of_32_bytes_are_wrapped(rig: Any, size: int) -> None:
    """Material of another length is a programmer's mistake, refused without being shown."""
    key = rig.new_key()

    async def play() -> None:
        with pytest.raises(ValueError, match="32 bytes") as caught:
            await key.wrap(b"\x7f" * size, {})
        assert "7f" not in repr(caught.value).replace("\\x", "")

    rig.run(play)
