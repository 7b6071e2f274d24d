"""Failpoints: inert unless armed, refused outside tests, fired once by whichever process comes first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from workers.compose import arm_failpoints
from workers.runtime import failpoints
from workers.runtime.failpoints import Action, Failpoint, FailpointRaised, Point, arm, reach
from workers.runtime.settings import Settings


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No test leaves one armed."""
    yield
    arm(None)


def test_nothing_happens_at_a_point_that_is_not_armed() -> None:
    """Without a failpoint, and with one elsewhere."""
    reach(Point.SHARD_CLAIMED)
    arm(Failpoint(point=Point.SHARD_LEFT, action=Action.RAISE))
    reach(Point.SHARD_CLAIMED)


def test_it_fires_once_for_all_who_share_its_marker(tmp_path: Path) -> None:
    """Whoever comes later, in another process too, passes."""
    arm(Failpoint(point=Point.SHARD_CLAIMED, action=Action.RAISE, marker=tmp_path / "fired"))
    with pytest.raises(FailpointRaised, match=r"shard\.claimed"):
        reach(Point.SHARD_CLAIMED)
    reach(Point.SHARD_CLAIMED)
    assert (tmp_path / "fired").read_text().isdigit()


def test_an_operator_who_sets_one_by_mistake_is_refused() -> None:
    """Nothing is armed without the second setting."""
    with pytest.raises(ValidationError, match="KEYREPACK_ALLOW_FAILPOINTS"):
        Settings(failpoint="shard.claimed=kill")
    arm_failpoints(Settings())
    assert failpoints._armed is None
    arm_failpoints(Settings(allow_failpoints=True, failpoint="shard.claimed=delay:0.5"))
    assert failpoints._armed == Failpoint(point=Point.SHARD_CLAIMED, action=Action.DELAY, seconds=0.5)


@pytest.mark.parametrize("text", ["shard.stolen=kill", "shard.claimed=explode", "shard.claimed=delay:long", ""])
def test_what_is_no_failpoint_is_named(text: str) -> None:
    """With what there is."""
    with pytest.raises(ValidationError, match=r"there|can|seconds"):
        Settings(allow_failpoints=True, failpoint=text)


def test_every_point_says_what_is_so_there() -> None:
    """In a sentence of its own."""
    sentences = [point.sentence for point in Point]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences)
