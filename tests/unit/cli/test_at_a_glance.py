"""`keyrepack top`, `health` and `metrics`: what they say of a system in which nobody works."""

from __future__ import annotations

import os
import signal
import threading
import urllib.request

import pytest

from producers.topology import QUEUES
from tests.poll import poll
from tests.unit.cli.conftest import Keyrepack
from workers.cli import top
from workers.cli.application import run
from workers.embedded.ports import LOOPBACK, free_port
from workers.maintenance import queue_canaries


def test_top_says_what_is_wrong_and_what_runs(moving: Keyrepack) -> None:
    """In text the verdict with its reasons, queues, jobs and repacks; for programs the same as a document."""
    answer = moving("top", "--once")
    assert answer.status == 0
    for words in (
        "The broker does not answer",
        "No worker is heard of",
        "acme/production",
        "moving",
        "sweep",
        "urgent",
    ):
        assert words in answer.out
    document = moving.done("top")
    assert [queue["name"] for queue in document["queues"]] == list(QUEUES)
    assert document["verdict"]["level"] == "bad"
    assert (document["remaining"], document["repacks"]) == (5, {"moving": 1})
    assert document["broker"]["answers"] is False


def test_top_writes_a_line_now_and_then_without_a_terminal(moving: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look a line; Ctrl-C ends it, and is no failure."""
    left = [2]

    def sleep(seconds: float) -> None:
        assert seconds >= top.LINE_SECONDS
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(top.time, "sleep", sleep)
    answer = moving("top")
    lines = answer.out.splitlines()
    assert (answer.status, len(lines)) == (0, 2)
    assert all("1 repacks, 5 keys left" in line and "queues: events ?" in line for line in lines)


def test_a_check_has_an_exit_status_and_its_reasons(seeded: Keyrepack) -> None:
    """For exec probes: of the whole, and of one worker."""
    answer = seeded("health", "check")
    assert answer.status == 1
    assert "The broker does not answer" in answer.out
    assert "No canary has come out of keyrepack.urgent" in answer.out
    assert seeded("health", "check", "--worker", "w1").out == "No process of worker w1 is heard of.\n"
    services = seeded.services()
    for queue in QUEUES:
        queue_canaries.arrive(services.database, queue, headers={}, owner="w1")
    services.close()
    answer = seeded("health", "check", "--json")
    assert (answer.status, answer.document["ok"]) == (1, False)
    assert not any("canary" in reason for reason in answer.document["reasons"])


@pytest.mark.parametrize(
    ("command", "path", "status"),
    [(["metrics"], "/metrics", 200), (["metrics"], "/livez", 200), (["health", "serve"], "/livez", 200)],
)
def test_what_is_served_is_served_until_a_signal(seeded: Keyrepack, command: list[str], path: str, status: int) -> None:
    """On a port of its own; SIGTERM ends it in good order."""
    port = free_port()
    found: list[tuple[int, bytes]] = []

    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=5) as answer:
                found.append((answer.status, answer.read()))
        except OSError:
            return False
        return True

    def ask_and_end() -> None:
        try:
            poll(ask, 20, f"an answer on port {port}")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=ask_and_end)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # should it come too late, this process lives
    try:
        visitor.start()
        assert run([*command, "--port", str(port)]) == 0
        visitor.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found[0][0] == status
    if path == "/metrics":
        assert b"keyrepack_environments 1.0" in found[0][1]
        assert b"acme" not in found[0][1]


def test_a_port_that_is_taken_is_said_so(seeded: Keyrepack) -> None:
    """In a sentence, with what to do."""
    import socket

    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        answer = seeded("metrics", "--port", str(taken.getsockname()[1]))
    assert answer.status == 1
    assert "Give another --port" in answer.err
