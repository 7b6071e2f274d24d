"""What is remembered of a person who was sent to the provider."""

from __future__ import annotations

from workers.dashboard.auth.pending import Pending


def test_who_was_sent_away_comes_back_once() -> None:
    """Within ten minutes."""
    now = [0.0]
    pending = Pending(lambda: now[0])
    first, second = pending.keep({"state": "x"}), pending.keep({"state": "y"})
    assert pending.take(first) == {"state": "x"}
    assert pending.take(first) == {}
    now[0] = 601
    assert pending.take(second) == {}
