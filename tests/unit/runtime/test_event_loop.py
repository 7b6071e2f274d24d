"""The event loop of a process: what is interrupted is cancelled, and nothing of it runs on in the next task."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.poll import poll
from workers.runtime.event_loop import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A loop that ends with the test."""
    loop = LoopThread()
    yield loop
    loop.close()


class Interrupted(BaseException):
    """What a time limit raises in the middle of anything."""


def test_an_interrupted_wait_cancels_its_coroutine(loop: LoopThread) -> None:
    """A time limit that strikes while a KMS is waited for leaves no coroutine that goes on inside the next task."""
    seen: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    def strike(_signal: int, _frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(Interrupted):
            loop.run(endless())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert poll(lambda: seen, 5, "the coroutine is cancelled") == ["cancelled"]


def test_a_timeout_cancels_too(loop: LoopThread) -> None:
    """A wait that takes too long ends, and the loop serves the next one."""
    with pytest.raises(TimeoutError):
        loop.run(asyncio.sleep(60), timeout=0.05)
    assert loop.run(asyncio.sleep(0, "next")) == "next"


def test_closing_cancels_what_runs() -> None:
    """Nobody waits for ever on a loop that was closed; closing twice is fine."""
    loop = LoopThread()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            loop.run(asyncio.sleep(60))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    poll(lambda: asyncio.all_tasks(loop._loop), 5, "the coroutine runs")
    loop.close()
    thread.join(5)
    assert failed
    loop.close()


def test_a_childs_own_loop(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork the parent's loop refuses, instead of waiting for a thread that is not there."""
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="parent"):
        loop.run(asyncio.sleep(0))
    loop.close()  # not its own to end
    monkeypatch.undo()
    assert loop.run(asyncio.sleep(0, 1)) == 1
