"""The life of a repack: the table of legal moves is complete, and nothing else is legal."""

from __future__ import annotations

from itertools import product

import pytest

from schemas.errors import IllegalMove
from schemas.states import ENDED, LEGAL, OPEN, RUNNING, Mode, RepackState, Stage, check_move

S = RepackState
EVERY_PAIR = list(product(RepackState, RepackState))


def reachable(start: RepackState) -> set[RepackState]:
    seen, ahead = {start}, [start]
    while ahead:
        here = ahead.pop()
        found = {new for old, new in LEGAL if old is here} - seen
        seen |= found
        ahead.extend(found)
    return seen


def ways_out(state: RepackState) -> set[RepackState]:
    return {new for old, new in LEGAL if old is state}


def test_every_state_can_be_reached_from_the_first() -> None:
    """A repack begins moving, and may come to stand in each state."""
    assert reachable(S.MOVING) == set(RepackState)


def test_what_has_ended_stays_as_it_is() -> None:
    """Ended states have no way out, but a retry or an abort where quarantined keys remain."""
    assert ways_out(S.FINISHED) == ways_out(S.ABORTED) == ways_out(S.STOPPED) == set()
    assert ways_out(S.FINISHED_WITH_QUARANTINE) == {S.MOVING, S.RENEWING, S.ABORTED}


@pytest.mark.parametrize("state", sorted(OPEN))
def test_an_open_repack_can_always_end(state: RepackState) -> None:
    """From every open state an ended one can be reached: no repack is a trap."""
    assert reachable(state) & ENDED


def test_states_are_open_or_ended_and_run_only_when_open() -> None:
    """Every state is either open or ended, and workers rewrap in two of the open ones."""
    assert set(RepackState) == OPEN | ENDED
    assert not OPEN & ENDED
    assert {S.MOVING, S.RENEWING} == RUNNING
    assert RUNNING < OPEN


def test_a_stage_is_never_run_backwards() -> None:
    """A renewal never becomes a move again in one step: the move has closed (or only quarantined roots hold it)."""
    assert (S.RENEWING, S.MOVING) not in LEGAL


def test_pause_and_block_are_aside() -> None:
    """From both of them a repack goes back to the stage it left, and an operator may end it."""
    for aside in (S.PAUSED, S.BLOCKED):
        assert ways_out(aside) >= {S.MOVING, S.RENEWING, S.ABORTED, S.STOPPED}
        assert all((running, aside) in LEGAL for running in RUNNING)


@pytest.mark.parametrize(
    ("pair", "sentence"), LEGAL.items(), ids=lambda value: "-".join(value) if len(value) == 2 else ""
)
def test_each_legal_move_says_when(pair: tuple[RepackState, RepackState], sentence: str) -> None:
    """A move is legal for a reason, in words that can follow "because"; none goes from a state to itself."""
    assert pair[0] is not pair[1]
    assert len(sentence.split()) >= 4
    assert sentence[0].islower()
    assert not sentence.endswith(".")
    check_move(*pair)


@pytest.mark.parametrize(("old", "new"), [pair for pair in EVERY_PAIR if pair not in LEGAL])
def test_any_other_move_is_refused_and_says_what_is_allowed(old: RepackState, new: RepackState) -> None:
    """A move outside the table is refused with the state it is in and every state it may go to."""
    with pytest.raises(IllegalMove) as caught:
        check_move(old, new)
    error = caught.value
    assert (error.action, error.state, error.code) == (new.value, old.value, "illegal_move")
    assert old.value in error.why
    for allowed in ways_out(old):
        assert allowed.value in error.remedy
    if not ways_out(old):
        assert error.remedy == "It has ended and stays as it is."


def test_the_words_in_the_database_are_frozen() -> None:
    """These words are stored in rows and sent in events: a change of one needs a migration."""
    assert [mode.value for mode in Mode] == ["shallow", "deep"]
    assert [stage.value for stage in Stage] == ["move", "renew", "shred"]
    assert [state.value for state in RepackState] == [
        *("moving", "renewing", "paused", "blocked"),
        *("finished", "finished_with_quarantine", "aborted", "stopped"),
    ]
