"""What every adapter raises, and what it never shows."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from tests.contract.kms.conftest import ENVIRONMENT, move
from workers.errors import Cause, KmsRefused, KmsThrottled, KmsUnreachable, WrapRefused
from workers.kms.port import KmsProvider, MainKey, encryption_context

MATERIAL = bytes.fromhex("c0ffee00" * 8)
CONTEXT = encryption_context(ENVIRONMENT, UUID(int=2))
OPERATIONS: dict[str, Callable[[MainKey, bytes], Awaitable[Any]]] = {
    "describe": lambda key, _: key.describe(),
    "generate": lambda key, _: key.generate(CONTEXT),
    "wrap": lambda key, _: key.wrap(MATERIAL, CONTEXT),
    "unwrap": lambda key, blob: key.unwrap(blob, CONTEXT),
    "rewrap": lambda key, blob: move(blob, CONTEXT, key, key),
}
ANY_STATE = [
    Cause.DENIED,
    Cause.DISABLED,
    Cause.PENDING_DELETION,
    Cause.PENDING_IMPORT,
    Cause.UNAVAILABLE,
    Cause.DELETED,
]
STATES: dict[str, list[Cause]] = {
    "memory": ANY_STATE,
    "aws": ANY_STATE,
    "openbao": [Cause.DENIED, Cause.PENDING_DELETION, Cause.DELETED],
    "uploaded": [Cause.DELETED],
}
"""The states that refuse, where somebody else than the platform decides."""

SILENCES: dict[str, list[str]] = {
    "memory": ["silent"],
    "aws": ["drop", "hang", "KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException"],
    "openbao": ["hang", "sealed"],
}


def pairs(of: dict[str, list[Any]], name: str, *, but: Any = None) -> pytest.MarkDecorator:
    """One test each adapter and each of its values."""
    found = [(rig, each) for rig, values in of.items() for each in values if each != but]
    return pytest.mark.parametrize(("rig", name), found, indirect=["rig"])


every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def test_adapters_are_of_the_port(rig: Any) -> None:
    """Every adapter's key is a MainKey named by its URI, and its repr says no more."""
    key = rig.new_key()
    provider: KmsProvider = rig.provider
    assert isinstance(key, MainKey)
    assert key.uri.scheme == provider.scheme
    assert str(key.uri) in repr(key)


@pairs(STATES, "cause")
@every_operation
def test_a_refusal_has_its_precise_cause(rig: Any, operation: str, cause: Cause) -> None:
    """Whatever is asked of a key in a state that refuses is refused, with that cause and the key's name."""
    key = rig.new_key()

    async def play() -> KmsRefused:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        rig.refuse(key.uri, cause)
        with pytest.raises(KmsRefused) as caught:
            await OPERATIONS[operation](key, blob)
        return caught.value

    error = rig.run(play)
    assert (error.cause, error.main_key) == (cause, str(key.uri))
    assert error.remedy


@pairs(STATES, "cause", but=Cause.DELETED)
def test_a_key_given_back_works_again(rig: Any, cause: Cause) -> None:
    """What was wrapped before a refusal opens after it is lifted."""
    key = rig.new_key()

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, CONTEXT)
        rig.refuse(key.uri, cause)
        with pytest.raises(KmsRefused):
            await key.unwrap(wrap.blob, CONTEXT)
        rig.recover(key.uri)
        assert (await key.unwrap(wrap.blob, CONTEXT)).material == MATERIAL

    rig.run(play)


@pytest.mark.parametrize("side", ["source", "target"])
@pairs(STATES, "cause")
def test_a_refused_rewrap_names_the_key_that_refused(rig: Any, cause: Cause, side: str) -> None:
    """A rewrap between two keys is refused in the name of the one that is unusable, source or target."""
    keys = {"source": rig.new_key(), "target": rig.new_key()}

    async def play() -> KmsRefused:
        wrap = await keys["source"].wrap(MATERIAL, CONTEXT)
        rig.refuse(keys[side].uri, cause)
        with pytest.raises(KmsRefused) as caught:
            await move(wrap.blob, CONTEXT, keys["source"], keys["target"])
        return caught.value

    error = rig.run(play)
    assert (error.main_key, error.cause) == (str(keys[side].uri), cause)


@pairs(SILENCES, "how")
@every_operation
def test_no_answer_is_not_a_refusal(rig: Any, operation: str, how: str) -> None:
    """A KMS that does not answer is unreachable, whichever way; nothing is concluded about the key."""
    key = rig.new_key()

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        rig.unreachable(key.uri, how)
        with pytest.raises(KmsUnreachable) as caught:
            await OPERATIONS[operation](key, blob)
        assert not isinstance(caught.value, KmsThrottled)
        assert caught.value.main_key == str(key.uri)
        rig.recover(key.uri)
        await OPERATIONS[operation](key, blob)

    rig.run(play)


@pytest.mark.parametrize("rig", ["memory", "aws", "openbao"], indirect=True)
@every_operation
def test_throttling_is_told_apart(rig: Any, operation: str) -> None:
    """A KMS that asks for fewer calls raises KmsThrottled."""
    key = rig.new_key()

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        rig.throttle(key.uri)
        with pytest.raises(KmsThrottled):
            await OPERATIONS[operation](key, blob)

    rig.run(play)


def test_calls_are_counted_by_operation(rig: Any) -> None:
    """Every call is counted, failed ones too."""
    key = rig.new_key()

    async def play() -> None:
        await key.describe()
        before = sum(rig.provider.calls.values())
        with pytest.raises(WrapRefused):
            await key.unwrap(rig.foreign_blob, CONTEXT)
        await key.describe()
        assert sum(rig.provider.calls.values()) == before + 2

    rig.run(play)


def test_nothing_shows_plaintext_or_wraps(rig: Any) -> None:
    """Neither the values an adapter returns, nor its errors and their tracebacks, show a plaintext or a wrap (R10)."""
    key = rig.new_key()

    async def play() -> list[str]:
        made, wrap = await key.generate(CONTEXT)
        mine = await key.wrap(MATERIAL, CONTEXT)
        secrets = [made.material, wrap.blob, MATERIAL, mine.blob]
        with pytest.raises(WrapRefused) as caught:
            await key.unwrap(mine.blob, {})
        said = [repr(each) for each in (made, wrap, mine, key, rig.provider)]
        said += [str(caught.value), "".join(traceback.format_exception(caught.value))]
        said += [repr(each.args) for each in (caught.value, caught.value.__cause__) if each is not None]
        for secret in secrets:
            assert not [each for each in said for form in (secret.hex(), repr(secret)[2:-1][:40]) if form in each]
        return said

    rig.run(play)
