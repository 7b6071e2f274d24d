"""Failpoints: boundaries at which a test makes a process die, fail, hang or wait. Inert unless one is armed.

    reach(Point.SHARD_CLAIMED)          # what the code says at the boundary: one attribute is read, and on

One point at most is armed in a process, by `arm`, from the settings (which refuse it outside tests). With a marker it
fires once, in whichever process comes there first: the one that is started again goes on.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path

DELAY_SECONDS = 1.0
"""How long a delay lasts where none is given."""


class Point(Enum):
    """Every boundary, with what is so there."""

    sentence: str

    def __new__(cls, word: str, sentence: str) -> Point:
        """Create a member from its word and its sentence."""
        point = object.__new__(cls)
        point._value_, point.sentence = word, sentence
        return point

    EVENT_TAKEN = "event.taken", "An event is in the inbox, and its message is not yet acknowledged."
    EVENT_SETTLED = "event.settled", "An event's effect and the record of it are written, and not committed."
    START_PROBED = "start.probed", "A new main key was probed; nothing is written."
    START_COMMITTED = "start.committed", "A repack has started; nobody was woken."
    SHARD_CLAIMED = "shard.claimed", "A shard is leased; nothing of it was read."
    SHARD_LEFT = "shard.left", "A slice is over; its lease was not given back."
    SLICE_ENDED = "slice.ended", "There is more to walk; the wake-up was not passed on."
    MOVE_UNWRAPPED = "move.unwrapped", "A root's plaintext is here, and not wrapped under the new main key."
    MOVE_PREPARED = "move.prepared", "Roots have their new wraps; nothing is written."
    MOVE_WRITTEN = "move.written", "Roots and checkpoint are written, and not committed."
    MOVE_COMMITTED = "move.committed", "Roots and checkpoint are committed; the process does not know."
    CLOSE_WRITTEN = "close.written", "The old main key's wraps are dropped, and that is not committed."
    STAGE_PLANNED = "stage.planned", "The next stage is planned; its shards are not written."
    STAGE_WRITTEN = "stage.written", "The next stage's shards are written, and not committed."
    STAGE_COMMITTED = "stage.committed", "The next step is committed; nobody was woken."
    MINT_PREPARED = "mint.prepared", "Fresh versions are made and wrapped; nothing is written."
    MINT_WRITTEN = "mint.written", "Fresh versions are active, and not committed."
    RENEW_OPENED = "renew.opened", "A page's parents are open; none of its keys is unwrapped."
    RENEW_PREPARED = "renew.prepared", "A page's keys have their new wraps; nothing is written."
    RENEW_SWAPPED = "renew.swapped", "A page's keys are swapped; their checkpoint is not written."
    RENEW_WRITTEN = "renew.written", "Keys and checkpoint are written, and not committed."
    RENEW_COMMITTED = "renew.committed", "Keys and checkpoint are committed; the process does not know."
    SHRED_PROVED = "shred.proved", "Nothing hangs from the locked versions; their wraps are still there."
    SHRED_WRITTEN = "shred.written", "Old versions are shredded, and not committed."
    SHRED_COMMITTED = "shred.committed", "Old versions are shredded; the process does not know."
    FINISH_WRITTEN = "finish.written", "The repack is finished, and not committed."
    ABORT_WRITTEN = "abort.written", "The old main key is in force again, and not committed."
    STOP_WRITTEN = "stop.written", "The renewal is stopped, and not committed."
    STEER_COMMITTED = "steer.committed", "A repack was steered; nobody was woken."
    LOCK_WRITTEN = "lock.written", "An environment is locked and its repack parked, and not committed."
    LOCK_COMMITTED = "lock.committed", "An environment is locked or unlocked; nobody has heard."
    POLL_CLAIMED = "poll.claimed", "Main keys are claimed; none was looked at."
    POLL_LOOKED = "poll.looked", "A KMS has said how its main keys are; nothing is recorded."
    POLL_RECORDED = "poll.recorded", "What was seen is committed; what follows from it has not happened."
    SWEEP_TICKED = "sweep.ticked", "The sweep of this time is this process's; nothing was woken."
    OUTBOX_CLAIMED = "outbox.claimed", "Events are claimed; none is published."
    OUTBOX_PUBLISHED = "outbox.published", "The broker has the events; they are not marked."


class Action(StrEnum):
    """What happens at a point."""

    KILL = "kill"  # SIGKILL to this process, by itself
    RAISE = "raise"  # an unforeseen error
    HANG = "hang"  # until a signal or a time limit ends it
    DELAY = "delay"  # then it goes on: longer than a lease, and it comes late


class FailpointRaised(Exception):  # not one of our errors: nothing may count on its kind
    """A failpoint was told to raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoint:
    """A point and what happens there. `marker`: a file that is made when it fires; a process that finds it passes."""

    point: Point
    action: Action
    seconds: float = DELAY_SECONDS
    marker: Path | None = None

    @classmethod
    def parse(cls, text: str, *, marker: Path | None = None) -> Failpoint:
        """Parse POINT=ACTION or POINT=delay:SECONDS. Raises ValueError, which lists what there is."""
        word, _, rest = text.partition("=")
        action, _, seconds = rest.partition(":")
        if word not in POINTS:
            raise ValueError(f"there is no failpoint {word!r}; there are: {', '.join(POINTS)}")
        if action not in ACTIONS:
            raise ValueError(f"a failpoint cannot {action!r}; it can: {', '.join(ACTIONS)}")
        try:
            given = float(seconds or DELAY_SECONDS)
        except ValueError:
            raise ValueError(f"{seconds!r} are no seconds") from None
        return cls(point=POINTS[word], action=Action(action), seconds=given, marker=marker)

    def fire(self) -> None:
        """Do it, unless it was done before."""
        if self.marker is not None and not _make(self.marker):
            return
        match self.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.RAISE:
                raise FailpointRaised(self.point.value)
            case Action.HANG:
                while True:
                    time.sleep(3600)
            case Action.DELAY:
                time.sleep(self.seconds)


POINTS = {point.value: point for point in Point}
ACTIONS = tuple(action.value for action in Action)

_armed: Failpoint | None = None


def arm(failpoint: Failpoint | None) -> None:
    """Arm one point in this process, or none."""
    global _armed
    _armed = failpoint


def reach(point: Point) -> None:
    """Mark a boundary: do nothing, unless it is the armed failpoint."""
    if _armed is not None and _armed.point is point:
        _armed.fire()


def _make(marker: Path) -> bool:
    """Make the file, with this process's id in it. Of many processes one succeeds."""
    try:
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(str(os.getpid()))
    return True
