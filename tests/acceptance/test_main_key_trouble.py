"""A main key goes away in mid-run and comes back: the repack waits, says why, and goes on by itself."""

from __future__ import annotations

import pytest

from schemas.states import RepackState
from tests.acceptance.stack import ON_SQLITE, PATIENCE, Seeded, Stack
from workers.store.repacks import Repack

pytestmark = pytest.mark.acceptance

ROOTS = 70
"""More than one batch of roots, so that a move can be interrupted after it."""

CALL_SECONDS = 0.1
"""How late the simulator answers a rewrap, so that a move takes seconds."""

SLOW = 5
"""Leases that may run out: the test's are shorter than a batch of roots at a KMS that is slow or throttles."""

EACH_KIND = pytest.mark.parametrize(
    ("stacks", "kind"), [("sqlite", "drop"), ("postgresql", "throttle")], indirect=["stacks"]
)


def _begin(stack: Stack, old: str, new: str) -> tuple[Seeded, Repack]:
    """A move of many roots, slowed down, a batch into it."""
    seeded = stack.seed(main_key=old, connections=ROOTS, hourly=2, data=100, nested=5)
    stack.simulator.inject("delay", seconds=CALL_SECONDS, operation="ReEncrypt")
    stack.replace(seeded.environment, new)
    return seeded, stack.started(seeded.environment, seen=2)


@pytest.mark.parametrize(
    ("stacks", "side", "state", "cause"),
    [
        ("sqlite", "target", "Disabled", "disabled"),
        pytest.param("postgresql", "target", "Disabled", "disabled", marks=pytest.mark.long),
        ("postgresql", "source", "Unavailable", "unavailable"),
    ],
    indirect=["stacks"],
)
def test_a_key_that_goes_away_in_mid_move_blocks_and_comes_back(
    stack: Stack, side: str, state: str, cause: str
) -> None:
    """The repack is blocked with the side and the cause, nothing is lost, and it goes on once the key is back."""
    keys = {"source": stack.simulator.create_main_key(), "target": stack.simulator.create_main_key()}
    seeded, repack = _begin(stack, str(keys["source"]), str(keys["target"]))
    stack.simulator.set_state(keys[side].name, state)
    blocked = stack.in_state(repack, RepackState.BLOCKED)
    assert (blocked.block_side, blocked.block_cause) == (side, cause), blocked.block_detail
    assert blocked.move_closed_at is None
    stack.wait_for(lambda: stack.repack(seeded.environment).probes >= 1, PATIENCE, "it looked again")  # type: ignore[union-attr]
    assert stack.repack(seeded.environment).state == RepackState.BLOCKED  # type: ignore[union-attr]
    stack.simulator.set_state(keys[side].name, "Enabled")
    stack.simulator.clear_faults()
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=SLOW)


@ON_SQLITE
def test_everything_opens_through_the_old_key_while_the_new_one_is_away(stack: Stack) -> None:
    """A new key that is lost in mid-move costs nothing: every key still opens, through the old one (R1)."""
    old, new = stack.simulator.create_main_key(), stack.simulator.create_main_key()
    seeded, repack = _begin(stack, str(old), str(new))
    stack.simulator.set_state(new.name, "Disabled")
    stack.in_state(repack, RepackState.BLOCKED)
    stack.simulator.clear_faults()
    keyring = stack.fresh_keyring()
    assert {key: keyring.unwrap(key) for key in seeded.sample} == seeded.sample
    stack.simulator.set_state(new.name, "Enabled")
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=SLOW)


@EACH_KIND
def test_a_kms_that_stumbles_is_tried_again(stack: Stack, kind: str) -> None:
    """Throttled and dropped calls, more than the SDK's own retries take: the repack goes on and ends by itself."""
    old, new = stack.simulator.create_main_key(), stack.simulator.create_main_key()
    seeded, repack = _begin(stack, str(old), str(new))
    stack.simulator.clear_faults()
    stack.simulator.inject(kind, count=60)
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=SLOW)
    assert stack.repack(seeded.environment) is not None
    assert repack.repack_id == stack.repack(seeded.environment).repack_id  # type: ignore[union-attr]


@EACH_KIND
def test_an_event_waits_for_a_kms_that_stumbles(stack: Stack, kind: str) -> None:
    """A KMS that does not answer refuses nothing: the event waits for its effect, and has it later."""
    new = stack.simulator.create_main_key()
    seeded = stack.seed(hourly=2, data=100, nested=5)
    stack.simulator.inject(kind, operation="DescribeKey", key=new.name)
    event = stack.replace(seeded.environment, str(new))
    stack.wait_for(lambda: stack.simulator.calls()["by_key"].get(new.name), PATIENCE, "the new key was probed")
    stack.wait_for(lambda: stack.log_lines("event.left"), PATIENCE, "the event was left for later")
    assert stack.rejected(event.id) == []
    stack.simulator.clear_faults()
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=SLOW)
