"""How often a person may try to sign in."""

from __future__ import annotations

from workers.dashboard.auth.attempts import BY_ADDRESS, BY_NAME, BY_PAIR, WINDOW_SECONDS, Attempts


def test_tries_are_limited_by_pair_and_by_address() -> None:
    """A window later they may go on; whoever was right is forgiven, but for the address."""
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(BY_PAIR):
        assert attempts.wait("eve", "a") == 0
        attempts.failed("eve", "a")
    assert attempts.wait("eve", "a") == WINDOW_SECONDS
    assert attempts.wait("eve", "b") == 0
    attempts.succeeded("eve", "a")
    assert attempts.wait("eve", "a") == 0
    for number in range(BY_ADDRESS):
        attempts.failed(f"name-{number}", "a")
    assert attempts.wait("somebody", "a") > 0
    now[0] = WINDOW_SECONDS + 1
    assert attempts.wait("somebody", "a") == 0


def test_those_who_are_right_keep_nobody_out() -> None:
    """Many people of one address sign in, each again and again; what failed there before stays counted."""
    attempts = Attempts(lambda: 0.0)
    for _ in range(BY_ADDRESS - 1):
        attempts.failed("stranger", "office")
    for number in range(BY_NAME + 1):
        for name in ("eve", f"person-{number}"):
            assert attempts.wait(name, "office") == 0
            attempts.failed(name, "office")
            attempts.succeeded(name, "office")
    attempts.failed("stranger", "office")
    assert attempts.wait("eve", "office") > 0
