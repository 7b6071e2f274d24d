"""The life of a repack: its states and the table of legal moves between them, a sentence each.

::

    moving ──► renewing ──► finished
      │  ╲        │   ╲───► finished_with_quarantine ──(retry)──► moving or renewing
      │   ╲       ╰──► stopped
      ╰──► aborted          (until the move closes)

    paused and blocked are aside: both go back to the stage they left.
"""

from __future__ import annotations

from enum import StrEnum

from schemas.errors import IllegalMove


class Mode(StrEnum):
    """How far a repack goes: `shallow` moves the roots, `deep` renews every wrapping key below as well."""

    SHALLOW = "shallow"
    DEEP = "deep"


class Stage(StrEnum):
    """What a shard does with its keys."""

    MOVE = "move"  # give each root a wrap under the new top version
    RENEW = "renew"  # give each wrapping key of a level a fresh version and rewrap its data keys under it
    SHRED = "shred"  # prove that nothing is wrapped under a draining version, and delete its wrap


class LockCause(StrEnum):
    """Why an environment is locked. A stronger cause is not replaced by a weaker one."""

    REVOKED = "revoked"  # the customer withdrew access, by their word
    RESTRICTED = "restricted"  # the KMS refuses: denied, disabled, pending deletion …
    LOST = "lost"  # the main key is deleted: nothing below it can ever be opened


class RepackState(StrEnum):
    """Where a repack stands."""

    MOVING = "moving"
    RENEWING = "renewing"
    PAUSED = "paused"
    BLOCKED = "blocked"
    FINISHED = "finished"
    FINISHED_WITH_QUARANTINE = "finished_with_quarantine"
    ABORTED = "aborted"
    STOPPED = "stopped"


_S = RepackState

RUNNING = frozenset({_S.MOVING, _S.RENEWING})
"""States in which workers rewrap."""

OPEN = RUNNING | {_S.PAUSED, _S.BLOCKED}
"""States in which an environment can start no other repack."""

ENDED = frozenset(_S) - OPEN

LEGAL: dict[tuple[RepackState, RepackState], str] = {
    (_S.MOVING, _S.RENEWING): "every root that can be moved has its new wrap, and the repack is deep",
    (_S.MOVING, _S.FINISHED): "the move has closed, and the repack is shallow",
    (_S.MOVING, _S.FINISHED_WITH_QUARANTINE): "only quarantined roots still need the old main key",
    (_S.MOVING, _S.PAUSED): "an operator paused it",
    (_S.MOVING, _S.BLOCKED): "a main key refused or did not answer",
    (_S.MOVING, _S.ABORTED): "an operator aborted it: the old main key is in force again",
    (_S.RENEWING, _S.FINISHED): "nothing hangs from an old version",
    (_S.RENEWING, _S.FINISHED_WITH_QUARANTINE): "only quarantined keys hang from old versions",
    (_S.RENEWING, _S.PAUSED): "an operator paused it",
    (_S.RENEWING, _S.BLOCKED): "the main key refused or did not answer",
    (_S.RENEWING, _S.STOPPED): "an operator stopped the renewal: keys stay where they are",
    (_S.RENEWING, _S.ABORTED): "an operator aborted it while quarantined roots kept the move open",
    (_S.PAUSED, _S.MOVING): "an operator resumed it",
    (_S.PAUSED, _S.RENEWING): "an operator resumed it",
    (_S.PAUSED, _S.ABORTED): "an operator aborted it",
    (_S.PAUSED, _S.STOPPED): "an operator stopped its renewal",
    (_S.BLOCKED, _S.MOVING): "the main keys work again",
    (_S.BLOCKED, _S.RENEWING): "the main key works again",
    (_S.BLOCKED, _S.PAUSED): "an operator paused it",
    (_S.BLOCKED, _S.ABORTED): "an operator aborted it",
    (_S.BLOCKED, _S.STOPPED): "an operator stopped its renewal",
    (_S.FINISHED_WITH_QUARANTINE, _S.MOVING): "an operator retries the quarantined roots",
    (_S.FINISHED_WITH_QUARANTINE, _S.RENEWING): "an operator retries the quarantined keys",
    (_S.FINISHED_WITH_QUARANTINE, _S.ABORTED): "an operator aborted it while quarantined roots kept the move open",
}


def check_move(old: RepackState, new: RepackState) -> None:
    """Raise IllegalMove unless `LEGAL` has the pair."""
    if (old, new) not in LEGAL:
        allowed = sorted({target.value for source, target in LEGAL if source == old})
        raise IllegalMove(action=new.value, state=old.value, allowed=allowed)


def legal_actions(state: RepackState, stage: Stage, *, is_move_closed: bool) -> list[str]:
    """List what an operator may do to a repack now, by the command's name."""
    targets = {target for source, target in LEGAL if source == state}
    actions = ["pause"] if RepackState.PAUSED in targets else []
    if state in {RepackState.PAUSED, RepackState.BLOCKED}:
        actions.append("resume")
    if not is_move_closed and RepackState.ABORTED in targets:
        actions.append("abort")
    if stage != Stage.MOVE and RepackState.STOPPED in targets:
        actions.append("stop")
    if state == RepackState.FINISHED_WITH_QUARANTINE:
        actions.append("retry")
    return actions
