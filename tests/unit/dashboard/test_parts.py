"""The small parts: passwords, tries, what is kept and what is shared, the heat map, redaction, the picture."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from schemas.states import Stage
from tests.poll import poll
from workers.dashboard.auth import passwords
from workers.dashboard.auth.attempts import BY_ADDRESS, BY_NAME, BY_PAIR, WINDOW_SECONDS, Attempts
from workers.dashboard.auth.pending import Pending
from workers.dashboard.auth.users import Role
from workers.dashboard.live.shared_reads import Readings
from workers.dashboard.live.stale_cache import Kept
from workers.dashboard.redaction import HIDDEN, redact
from workers.dashboard.views.heatmap import MOST, heat_map
from workers.dashboard.views.hierarchy_svg import draw
from workers.dashboard.views.rendering import ENVIRONMENT
from workers.errors import DatabaseAway


def test_a_password_is_known_by_its_hash_alone() -> None:
    """Salted: two of the same look different; a wrong one is none, and so is what is not of the form."""
    first, second = passwords.hash_password("a long password"), passwords.hash_password("a long password")
    assert first != second
    assert passwords.is_password("a long password", first)
    assert not passwords.is_password("a long passworD", first)
    for broken in ("", "scrypt$1", "md5$x", first[:-4] + "!!!!", first.replace("scrypt", "plain")):
        assert not passwords.is_password("a long password", broken)


def test_one_time_passwords_and_tokens_differ() -> None:
    """And are long."""
    assert len({passwords.one_time_password() for _ in range(50)}) == 50
    assert len({passwords.make_token() for _ in range(50)}) == 50
    assert len(passwords.make_token()) > 40


def test_each_role_may_what_the_one_before_it_may() -> None:
    """Viewer, operator, security."""
    may = [[role.may(needed) for needed in Role] for role in Role]
    assert may == [[True, False, False], [True, True, False], [True, True, True]]


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


def test_what_takes_long_is_served_old_while_it_is_read_anew() -> None:
    """The first to look may be told "not yet"; nobody waits for a second reading."""
    now, count, gate = [0.0], [0], threading.Event()

    def read(key: str) -> str:
        gate.wait(5)
        count[0] += 1
        return f"{key} {count[0]}"

    kept: Kept[str, str] = Kept(read, seconds=10, clock=lambda: now[0])
    assert kept.peek("a") is None
    assert kept.peek("a") is None
    gate.set()
    assert poll(lambda: kept.peek("a"), 5, "it was read") == "a 1"
    now[0] = 11
    assert kept.peek("a") == "a 1"
    assert poll(lambda: kept.peek("a") == "a 2", 5, "it was read anew")
    assert kept.wait("b") == "b 3"
    kept.close()


@pytest.mark.parametrize("fails", [False, True])
def test_those_who_ask_while_it_is_read_share_the_next_reading(fails: bool) -> None:
    """Not that one: it may have begun before what they did. Its error is theirs as well; nothing is kept."""
    count, gate = [0], threading.Event()
    readings: Readings[str, str] = Readings()

    def read() -> str:
        count[0] += 1
        number = count[0]
        gate.wait(5)
        if fails:
            raise DatabaseAway(str(number))
        return str(number)

    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(readings.share, "a", read)
        poll(lambda: count[0] == 1, 5, "the first reads")
        others = [threads.submit(readings.share, "a", read) for _ in range(8)]
        poll(lambda: readings.asking == 9, 5, "all of them ask")
        gate.set()
    told = [getattr(one.exception(), "why", None) or one.result() for one in (first, *others)]
    assert told == ["1"] + ["2"] * 8
    assert readings.asking == 0
    assert readings.share("a", lambda: "another") == "another"


def test_who_was_sent_away_comes_back_once() -> None:
    """Within ten minutes."""
    now = [0.0]
    pending = Pending(lambda: now[0])
    first, second = pending.keep({"state": "x"}), pending.keep({"state": "y"})
    assert pending.take(first) == {"state": "x"}
    assert pending.take(first) == {}
    now[0] = 601
    assert pending.take(second) == {}


@pytest.mark.parametrize(
    ("text", "is_hidden"),
    [
        ('{"api_token": "abc"}', True),
        ('{"client_secret":"a\\"b", "x": 1}', True),
        ('{"passwordHash": 12345}', True),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", True),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", True),
        ("Authorization: Bearer abcdefghijkl", True),
        ("hvs.CAESIJabcdefgh", True),
        ('{"main_key": "aws-kms:arn:aws:kms:eu-west-1:1:key/x", "reason": "monkey"}', False),
        ('{"environment": "0d6b1a3e-0000-0000-0000-000000000000"}', False),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, is_hidden: bool) -> None:
    """R10: by its name or by its shape; ids and main keys stay."""
    shown = redact(text)
    assert (HIDDEN in shown) is is_hidden
    assert is_hidden or shown == text


def shard(state: str, seen: int = 0, **values: Any) -> dict[str, Any]:
    """A row as stored."""
    base = {
        "stage": "renew",
        "level": 1,
        "state": state,
        "expected": 10,
        "seen": seen,
        "owner": "w",
        "lease_until": None,
    }
    return base | values


def test_the_heat_map_has_a_cell_a_shard() -> None:
    """By how far each is; a lease that ran out stands out."""
    shards = [
        shard("done", 10), shard("leased", 5, lease_until=99.0), shard("leased", 5, lease_until=1.0), shard("pending"),
        shard("closed"),
    ]  # fmt: skip
    (group,) = heat_map(shards, now=50.0)
    cells = [(cell["state"], cell["fraction"]) for cell in group["cells"]]
    assert cells == [("done", 1.0), ("leased", 0.5), ("lost", 0.5), ("pending", 0.0), ("closed", 1.0)]


def test_many_shards_share_cells() -> None:
    """As many as can be seen, each as bad as the worst in it."""
    shards = [shard("done", 10) for _ in range(MOST * 3)]
    shards[4] = shard("leased", 2, lease_until=99.0)
    (group,) = heat_map(shards, now=50.0)
    assert (len(group["cells"]), group["per_cell"], group["shards"]) == (MOST, 3, MOST * 3)
    assert [cell["state"] for cell in group["cells"][:3]] == ["done", "leased", "done"]


def test_the_picture_shows_both_main_keys_while_a_move_is_open() -> None:
    """And lines from each parent to each child below it, none from data keys."""
    tops = [
        {"version": 1, "main_key": "managed:", "state": "draining"},
        {"version": 2, "main_key": "aws-kms:x", "state": "active"},
        {"version": 0, "main_key": "old:", "state": "retired"},
    ]
    picture = draw(tops, {"wrapping": {1: 2}, "data": {1: 1, 2: 1234}}, {1: {"draining": 1}}, [])
    top, first, second = picture["rows"]
    assert [box["state"] for box in top["boxes"]] == ["draining", "active"]
    assert [box["title"] for box in first["boxes"] + second["boxes"]] == [
        "2 wrapping keys",
        "1 data key",
        "1,234 data keys",
    ]
    assert len(picture["lines"]) == 2 * 2 + 1
    assert all(
        box["x"] >= 0 and box["x"] + box["width"] <= picture["width"] for row in picture["rows"] for box in row["boxes"]
    )


def test_every_state_of_a_repack_has_a_mark_and_a_tone() -> None:
    """A state is said by a mark and a word; colour only helps."""
    from schemas.states import RepackState

    ui = ENVIRONMENT.globals["ui"]
    for state in RepackState:
        assert state.value in ui.tones
        html = str(ui.badge(state))
        assert state.value.replace("_", " ") in html
        assert 'aria-hidden="true"' in html
    assert set(ui.tones.values()) <= set(ui.marks)
    assert Stage.MOVE
