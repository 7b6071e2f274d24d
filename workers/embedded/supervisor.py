"""A small supervisor: starts processes, restarts those that die, reports exits, and leaves nothing behind.

Every child leads a session and process group of its own, so Ctrl-C reaches the supervisor alone and a group can be
killed as a whole (a Celery worker and its pool). A `Guard` ends the groups should the supervisor itself be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from workers.embedded.orphan_guard import Guard, signal_group, signal_process
from workers.errors import NotFound

FIRST_BACKOFF = 0.5
"""Seconds before a child that died is started again; doubled each time it dies soon after."""

LONGEST_BACKOFF = 10.0
"""A child that cannot live is tried often enough to be seen to come back."""

STEADY_SECONDS = 30.0
"""A child that lived this long has recovered: its back-off starts anew."""

POLL_SECONDS = 0.05
"""How often exits are polled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process to run. `env` is added to this process's environment."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # R10: it may hold a password
    log_file: Path | None = None  # None: <log_dir>/<name>.log
    cwd: Path | None = None
    user: int | None = None  # run as this uid and gid (root only): PostgreSQL refuses root
    role: str = ""  # neighbours of one role are stopped together, not one after the other
    restart: bool = True
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 10.0  # then SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A child has ended. `status` is negative for a signal, as subprocess has it."""

    name: str
    pid: int
    status: int
    restarts_in: float | None  # None: it stays down

    @property
    def reason(self) -> str:
        """Return a reason such as "killed by SIGKILL" or "exited with status 1"."""
        if self.status >= 0:
            return f"exited with status {self.status}"
        return f"killed by {signal.Signals(-self.status).name}"


@dataclass(slots=True)
class _Run:
    """What is known of a child while it is ours."""

    child: Child
    restart: bool
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    early_deaths: int = 0
    restart_at: float | None = None

    @property
    def lives(self) -> bool:
        return self.process is not None

    def next_backoff(self, now: float) -> float:
        self.early_deaths = 0 if now - self.started_at >= STEADY_SECONDS else self.early_deaths
        self.early_deaths += 1
        return min(FIRST_BACKOFF * 2.0 ** (self.early_deaths - 1), LONGEST_BACKOFF)


class Supervisor:
    """Runs children for the length of a `with` block; stops them in reverse order at its end, however it ends.

    In the main thread SIGTERM and SIGHUP act as Ctrl-C does: KeyboardInterrupt, and so the end of the block.
    `on_exit` is called in a thread of the supervisor's own; it must neither stop the supervisor nor raise.
    """

    def __init__(self, log_dir: Path, *, on_exit: Callable[[Exit], None] | None = None) -> None:
        self.log_dir = log_dir
        self.exits: list[Exit] = []
        self._on_exit = on_exit
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._monitor = threading.Thread(target=self._watch_children, name="supervisor", daemon=True)
        self._guard: Guard | None = None
        self._handlers: dict[int, Any] = {}
        self._signal: int | None = None
        self._starting = False

    def __enter__(self) -> Self:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._guard = Guard()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, self._interrupt)
        self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def start(self, child: Child) -> int:
        """Start a child; its pid. A name that has ended may be started again. Raises OSError if it cannot start."""
        with self._lock:
            if self._ending.is_set():
                raise RuntimeError("the supervisor has stopped")
            if child.name in self._runs and self._runs[child.name].lives:
                raise ValueError(f"{child.name} is running")
            self._runs.pop(child.name, None)  # the order of starting is the order of the dict
            run = _Run(child=child, restart=child.restart)
            with self._uninterrupted():
                self._spawn(run)
                self._runs[child.name] = run
            assert run.process is not None
            return run.process.pid

    def pid(self, name: str) -> int | None:
        """Return the pid of a child, None while it is down. Raises NotFound."""
        process = self._run(name).process
        return process.pid if process else None

    def running(self) -> list[str]:
        """Names of the children that live, in order of starting."""
        with self._lock:
            return [name for name, run in self._runs.items() if run.lives]

    def log_file(self, name: str) -> Path:
        """Return the file that a child's output goes to."""
        return self._log_file(self._run(name).child)

    def tail(self, name: str, lines: int = 20) -> str:
        """Return the last lines of a child's output: what to show when it has died."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_file(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def kill(self, name: str, number: int = signal.SIGKILL, *, restart: bool | None = None) -> int:
        """Send a signal; the pid it went to. SIGKILL goes to the whole group, others to its leader, who passes them on.

        `restart` overrules the child's own rule from here on. Raises NotFound if it is down.
        """
        with self._lock:
            run = self._run(name)
            if run.process is None:
                raise NotFound("running process", name, "Wait until it is up again.")
            run.restart = run.restart if restart is None else restart
            send = signal_group if number == signal.SIGKILL else signal_process
            send(run.process.pid, number)
            return run.process.pid

    def stop_child(self, name: str) -> None:
        """Stop one child and leave it stopped. Raises NotFound."""
        with self._lock:
            run = self._run(name)
            run.restart, run.restart_at = False, None
        self._end([run])

    def wait(self, seconds: float | None = None) -> int | None:
        """Sleep until Ctrl-C or SIGTERM (its number), until every child has ended for good, or for `seconds` (None)."""
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        try:
            while time.monotonic() < deadline and self._has_work():
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            return self._signal or signal.SIGINT
        return None

    def stop(self) -> None:
        """Stop all children, the last started first. A second Ctrl-C kills what is left at once."""
        self._ending.set()
        runs = list(reversed(self._runs.values()))
        try:
            if self._monitor.is_alive():
                self._monitor.join()
            for run in runs:
                run.restart, run.restart_at = False, None
            for _, tier in groupby(runs, key=lambda run: run.child.role or run.child.name):
                self._end(list(tier))
        except KeyboardInterrupt:
            self._end(runs, patience=0.0)
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _run(self, name: str) -> _Run:
        with self._lock:
            if name not in self._runs:
                raise NotFound("process", name, f"There are: {', '.join(self._runs) or 'none'}.")
            return self._runs[name]

    def _log_file(self, child: Child) -> Path:
        return child.log_file or self.log_dir / f"{child.name}.log"

    def _has_work(self) -> bool:
        with self._lock:
            return any(run.lives or run.restart_at is not None for run in self._runs.values())

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if not self._starting:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """Hold a signal back for as long as a child exists that is not recorded yet: it would be left behind."""
        self._starting = threading.current_thread() is threading.main_thread()
        try:
            yield
        finally:
            held, self._starting = self._starting and self._signal is not None, False
        if held:
            raise KeyboardInterrupt

    def _spawn(self, run: _Run) -> None:
        child = run.child
        with self._log_file(child).open("ab") as log:
            run.process = subprocess.Popen(
                list(child.argv),
                env={**os.environ, **child.env},
                cwd=child.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=child.user,
                group=child.user,
                extra_groups=None if child.user is None else [],
            )
        run.started_at, run.restart_at = time.monotonic(), None
        self._watch(run.process.pid)

    def _watch(self, leader: int) -> None:
        assert self._guard is not None
        try:
            self._guard.watch(leader)
        except BrokenPipeError:  # the guard itself was killed: another takes its place
            self._guard.close()
            self._guard = Guard()
            for run in self._runs.values():
                if run.process is not None:
                    self._guard.watch(run.process.pid)
            self._guard.watch(leader)

    def _watch_children(self) -> None:
        while not self._ending.wait(POLL_SECONDS):
            with self._lock:
                ended = [report for run in self._runs.values() if (report := self._buried(run))]
                for run in self._runs.values():
                    if run.restart_at is not None and time.monotonic() >= run.restart_at:
                        self._try_again(run)
            for report in ended:
                if self._on_exit is not None:
                    self._on_exit(report)

    def _try_again(self, run: _Run) -> None:
        try:
            self._spawn(run)
        except OSError:
            run.restart_at = time.monotonic() + run.next_backoff(time.monotonic())

    def _buried(self, run: _Run) -> Exit | None:
        """Reap a child that has ended, and what its group left behind."""
        if run.process is None or (status := run.process.poll()) is None:
            return None
        pid, run.process = run.process.pid, None
        signal_group(pid, signal.SIGKILL)
        if self._guard is not None:
            self._guard.forget(pid)
        now = time.monotonic()
        pause = run.next_backoff(now) if run.restart else None
        run.restart_at = now + pause if pause is not None else None
        report = Exit(name=run.child.name, pid=pid, status=status, restarts_in=pause)
        self.exits.append(report)
        return report

    def _end(self, runs: Iterable[_Run], patience: float = 1.0) -> None:
        """Ask all of `runs` to stop, then make them; `patience` scales how long they may take."""
        with self._lock:
            mine = [(run, run.process) for run in runs if run.process is not None]
        for run, process in mine:
            if process.poll() is None:
                signal_process(process.pid, run.child.stop_signal)
        begun = time.monotonic()
        for run, process in mine:
            left = begun + run.child.stop_seconds * patience - time.monotonic()
            try:
                process.wait(max(0.0, left))
            except subprocess.TimeoutExpired:
                signal_group(process.pid, signal.SIGKILL)
                process.wait()
            with self._lock:
                self._buried(run)
