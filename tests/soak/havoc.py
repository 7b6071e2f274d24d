"""What goes wrong, at random: kills, messages lost and doubled, a KMS that throttles, stalls and refuses."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.soak.installation import BEAT, WORKERS, Installation

PAUSE = (0.6, 2.6)
"""Seconds between two strokes: time to recover from most of them, and not from all."""

DOWN = (0.2, 1.5)
"""Seconds until what was killed is started again."""

LAME = (1.0, 4.0)
"""Seconds that a KMS is not itself, or a process is frozen: longer than a lease at times."""


@dataclass(slots=True)
class Trouble:
    """A time in which failures are to be expected: of everyone, or of whoever needs one main key."""

    kind: str  # database or kms
    since: float
    until: float = float("inf")
    key: str | None = None


@dataclass(slots=True)
class Diary:
    """What was done, and when."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    doubled: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    strokes: list[tuple[float, str]] = field(default_factory=list)

    def between(self, since: float, until: float) -> list[str]:
        """The strokes of a time."""
        return [name for at, name in self.strokes if since <= at <= until]


class Havoc:
    """Strikes until it is told to stop; then everything is put right."""

    def __init__(self, installation: Installation, keys: list[str], rng: random.Random) -> None:
        self.diary = Diary()
        self._installation, self._keys, self._rng = installation, keys, rng
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="havoc", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and put everything right."""
        self._ending.set()
        self._thread.join()
        self._installation.simulator.clear_faults()
        self._installation.restart_postgresql()
        self._installation.revive()

    def _work(self) -> None:
        strokes: dict[Callable[[], None], int] = {
            self._kill_worker: 4, self._kill_child: 5, self._kill_consumer: 2, self._kill_beat: 2, self._kill_redis: 2,
            self._kill_postgresql: 1, self._kill_backend: 2, self._freeze: 2, self._flush: 3, self._double: 4,
            self._throttle: 2, self._stall: 2, self._drop: 1, self._refuse: 2,
        }  # fmt: skip
        try:
            while not self._ending.wait(self._rng.uniform(*PAUSE)):
                stroke = self._rng.choices(list(strokes), list(strokes.values()))[0]
                self.diary.strokes.append((time.time(), stroke.__name__.lstrip("_")))
                stroke()
                self._installation.revive()
        except Exception as error:
            self.error = error

    # Kills --------------------------------------------------------------------------------------------------------

    def _kill_worker(self) -> None:
        self._kill("worker", self._rng.choice(WORKERS))

    def _kill_beat(self) -> None:
        self._kill("beat", BEAT)

    def _kill_redis(self) -> None:
        self._kill("redis", self._installation.broker.name)

    def _kill(self, kind: str, name: str) -> None:
        self._installation.kill(name)
        self.diary.kills[kind] += 1
        self._ending.wait(self._rng.uniform(*DOWN))

    def _kill_child(self) -> None:
        """One pool process alone: Celery starts another."""
        children = self._installation.children_of(self._rng.choice(WORKERS))
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(children), signal.SIGKILL)
            self.diary.kills["child"] += 1

    def _kill_consumer(self) -> None:
        """A worker's main process alone, which takes events from the broker: its pool is orphaned for a moment."""
        name = self._rng.choice(WORKERS)
        pid = self._installation.supervisor.pid(name) if name in self._installation.supervisor.running() else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.diary.kills["consumer"] += 1
            self._ending.wait(self._rng.uniform(*DOWN))

    def _kill_postgresql(self) -> None:
        with self._trouble("database"):
            self._installation.kill_postgresql()
            self.diary.kills["postgresql"] += 1
            self._ending.wait(self._rng.uniform(*DOWN))
            self._installation.restart_postgresql()

    def _kill_backend(self) -> None:
        with self._trouble("database"):
            self._installation.kill_backend()
            self.diary.kills["backend"] += 1
            self._installation.restart_postgresql()

    # The rest -----------------------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        """A worker stands still for longer than its lease, and then goes on with what it holds."""
        name = self._rng.choice(WORKERS)
        leader = self._installation.supervisor.pid(name) if name in self._installation.supervisor.running() else None
        if leader is None:
            return
        self.diary.faults["freeze"] += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGSTOP)
            self._ending.wait(self._rng.uniform(*LAME))
            os.killpg(leader, signal.SIGCONT)

    def _flush(self) -> None:
        self._installation.flush()
        self.diary.faults["flush"] += 1

    def _double(self) -> None:
        self.diary.doubled += self._installation.double_messages()
        self.diary.faults["double"] += 1

    def _throttle(self) -> None:
        self._lame("throttle")

    def _drop(self) -> None:
        self._lame("drop")

    def _stall(self) -> None:
        self._lame(self._rng.choice(["hang", "delay"]), seconds=0.5)

    def _lame(self, kind: str, **fields: float) -> None:
        """The KMS is not itself for a while, for everybody."""
        self.diary.faults[kind] += 1
        with self._trouble("kms"):
            number = self._installation.simulator.inject(kind, **fields)
            self._ending.wait(self._rng.uniform(*LAME))
            self._installation.simulator.clear_faults(number=number)

    def _refuse(self) -> None:
        """One customer disables their key, and enables it again."""
        key = self._rng.choice(self._keys)
        self.diary.faults["refuse"] += 1
        with self._trouble("kms", key):
            self._installation.simulator.set_state(key, "Disabled")
            self._ending.wait(self._rng.uniform(*LAME))
            self._installation.simulator.set_state(key, "Enabled")

    @contextlib.contextmanager
    def _trouble(self, kind: str, key: str | None = None) -> Iterator[None]:
        trouble = Trouble(kind, time.time(), key=key)
        self.diary.troubles.append(trouble)
        try:
            yield
        finally:
            trouble.until = time.time()
