"""One event loop a process, in a thread of its own: every KMS call runs there.

Celery's tasks are synchronous, and a soft time limit that interrupts `asyncio.Runner.run` leaves a suspended coroutine
that goes on inside the next task. Here the interrupted caller cancels its coroutine and leaves; the loop lives on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A running event loop. Made after the fork; `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="keyrepack-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], *, timeout: float | None = None) -> T:
        """Run a coroutine to its end and return what it does; called from any other thread.

        Whatever interrupts the wait (a time limit, Ctrl-C) cancels the coroutine. Raises TimeoutError after `timeout`
        seconds.
        """
        if os.getpid() != self._pid:
            coroutine.close()
            raise RuntimeError("This event loop belongs to the parent process.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs and end the loop."""
        if self._loop.is_closed() or os.getpid() != self._pid:
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
