"""The supervisor: children are restarted, reported, stopped in order, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.poll import poll, stretched
from workers.embedded.supervisor import FIRST_BACKOFF, LONGEST_BACKOFF, STEADY_SECONDS, Child, Exit, Supervisor, _Run
from workers.errors import NotFound

pytestmark = pytest.mark.acceptance

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
PARENT = """
import subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(inner.pid, flush=True)
time.sleep({seconds})
"""
ASKED = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
RECORDER = """
import signal, sys, time
def stop(number, frame):
    with open({record!r}, "a") as record:
        record.write({name!r} + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(600)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def child(name: str, code: str = SLEEPER, **more: object) -> Child:
    return Child(name=name, argv=[sys.executable, "-c", code], **more)  # type: ignore[arg-type]


def lives(pid: int) -> bool:
    """A zombie that nobody has reaped yet does nothing any more: it counts as gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def is_up(supervisor: Supervisor, *names: str) -> Callable[[], bool]:
    return lambda: all(supervisor.tail(name) for name in names)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "log") as running:
        yield running


def test_output_goes_to_a_log_file_per_child(supervisor: Supervisor, tmp_path: Path) -> None:
    """What a child prints, errors too, is in its own log file; `tail` shows the end of it."""
    code = "import os, sys; print('one'); print('two', file=sys.stderr); print(os.environ['MARK'])"
    supervisor.start(child("a", code, env={"MARK": "three"}, restart=False))
    poll(lambda: not supervisor.running(), 10, "the child has ended")
    assert sorted((tmp_path / "log" / "a.log").read_text().split()) == ["one", "three", "two"]
    assert len(supervisor.tail("a", 2).split()) == 2


def test_a_child_that_dies_is_started_again_and_reported(tmp_path: Path) -> None:
    """A killed child comes back under a new pid, and its exit is told with the signal's name."""
    told: list[Exit] = []
    with Supervisor(tmp_path, on_exit=told.append) as supervisor:
        first = supervisor.start(child("a"))
        assert supervisor.kill("a") == first
        second = poll(lambda: supervisor.pid("a") not in (None, first) and supervisor.pid("a"), 10, "it is back")
        assert second != first
    assert [(each.name, each.pid, each.reason) for each in told] == [("a", first, "killed by SIGKILL")]
    assert told[0].restarts_in == FIRST_BACKOFF


def test_a_child_told_not_to_restart_stays_down(supervisor: Supervisor) -> None:
    """`restart=False` holds, said of the child or at the kill; `wait` ends when nothing is left to run."""
    supervisor.start(child("never", "raise SystemExit(3)", restart=False))
    supervisor.start(child("not-now"))
    supervisor.kill("not-now", restart=False)
    assert supervisor.wait(10) is None
    assert supervisor.running() == []
    assert {each.name: each.status for each in supervisor.exits} == {"never": 3, "not-now": -signal.SIGKILL}
    assert all(each.restarts_in is None for each in supervisor.exits)


def test_the_backoff_doubles_up_to_its_limit_and_forgets() -> None:
    """Restarts wait 0.5 s, doubled for each early death up to 10 s; a child that lived long starts anew."""
    run = _Run(child=child("a"), restart=True, started_at=0.0)
    assert [run.next_backoff(1.0) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_BACKOFF, LONGEST_BACKOFF]
    assert run.next_backoff(STEADY_SECONDS) == FIRST_BACKOFF


def test_killing_a_child_kills_its_children(supervisor: Supervisor) -> None:
    """SIGKILL reaches the whole group: a Celery worker and its pool."""
    supervisor.start(child("a", PARENT.format(seconds=600), restart=False))
    poll(is_up(supervisor, "a"), 10, "the grandchild is up")
    inner = int(supervisor.tail("a"))
    supervisor.kill("a")
    poll(lambda: not lives(inner), 5, "the grandchild is gone")


def test_what_a_dead_child_left_is_ended(supervisor: Supervisor) -> None:
    """When a leader exits by itself, the rest of its group is killed."""
    supervisor.start(child("a", PARENT.format(seconds=0), restart=False))
    poll(is_up(supervisor, "a"), 10, "the grandchild is up")
    inner = int(supervisor.tail("a"))
    poll(lambda: not lives(inner), 5, "the grandchild is gone")


def test_other_signals_go_to_the_leader_alone(supervisor: Supervisor) -> None:
    """SIGTERM is for the leader, who knows what to tell its own children (Celery's warm shutdown)."""
    supervisor.start(child("a", ASKED + PARENT.format(seconds=600), stop_seconds=0.2))
    poll(is_up(supervisor, "a"), 10, "the grandchild is up")
    inner = int(supervisor.tail("a"))
    supervisor.kill("a", signal.SIGTERM)
    poll(lambda: "asked" in supervisor.tail("a"), 5, "the leader was asked")
    assert lives(inner)


def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    """The last started stops first, and each has ended before the next is asked."""
    record = tmp_path / "record"
    names = ["redis", "worker", "beat"]
    with Supervisor(tmp_path) as supervisor:
        for name in names:
            supervisor.start(child(name, RECORDER.format(record=str(record), name=name)))
        poll(is_up(supervisor, *names), 10, "all are up")
    assert record.read_text().split() == ["beat", "worker", "redis"]
    assert supervisor.running() == []


def test_a_deaf_child_is_killed_after_its_deadline(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed when its time is up; neighbours of one role share that time."""
    with Supervisor(tmp_path) as supervisor:
        pids = [supervisor.start(child(name, DEAF, role="worker", stop_seconds=1.0)) for name in ("a", "b")]
        poll(is_up(supervisor, "a", "b"), 10, "both are up")
        begun = time.monotonic()
    assert 1.0 <= time.monotonic() - begun < stretched(1.9)
    assert not any(lives(pid) for pid in pids)
    assert {each.status for each in supervisor.exits} == {-signal.SIGKILL}


def test_stopping_one_child_leaves_the_others(supervisor: Supervisor) -> None:
    """`stop_child` stops one for good, and it can be started again."""
    supervisor.start(child("a"))
    supervisor.start(child("b"))
    supervisor.stop_child("a")
    assert supervisor.running() == ["b"]
    supervisor.start(child("a"))
    assert supervisor.running() == ["b", "a"]


def test_mistakes_are_named(supervisor: Supervisor) -> None:
    """A program that is not there, a name in use, a name unknown and a child that is down each say so."""
    with pytest.raises(FileNotFoundError):
        supervisor.start(Child(name="absent", argv=["/nonexistent/program"]))
    supervisor.start(child("a"))
    with pytest.raises(ValueError, match="a is running"):
        supervisor.start(child("a"))
    with pytest.raises(NotFound, match="There are: a"):
        supervisor.kill("b")
    supervisor.stop_child("a")
    with pytest.raises(NotFound, match="running process a"):
        supervisor.kill("a")


def test_a_childs_repr_hides_its_environment() -> None:
    """R10: a password in a child's environment shows in no repr."""
    assert "hunter2" not in repr(child("a", env={"PASSWORD": "hunter2"}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_root_can_run_a_child_as_another_user(supervisor: Supervisor) -> None:
    """`user` is the child's uid and gid, with no other groups."""
    argv = ["/bin/sh", "-c", "id -u; id -g; id -G"]
    supervisor.start(Child(name="a", argv=argv, user=65534, cwd=Path("/"), restart=False))
    poll(lambda: not supervisor.running(), 10, "the child has ended")
    assert supervisor.tail("a").split() == ["65534"] * 3


PROGRAM = """
import sys
from pathlib import Path
from workers.embedded.supervisor import Child, Supervisor

with Supervisor(Path({log!r})) as supervisor:
    supervisor.start(Child(name="first", argv=[sys.executable, "-c", {parent!r}]))
    supervisor.start(Child(name="second", argv=[sys.executable, "-c", {deaf!r}], stop_seconds=30.0))
    print(supervisor.pid("first"), supervisor.pid("second"), supervisor._guard.pid, flush=True)
    print("signal", supervisor.wait(), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    code = textwrap.dedent(PROGRAM).format(log=str(tmp_path), parent=ASKED + PARENT.format(seconds=600), deaf=DEAF)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def pids_of(program: subprocess.Popen[str], log_dir: Path) -> list[int]:
    assert program.stdout is not None
    pids = [int(word) for word in program.stdout.readline().split()]
    inner = poll(lambda: (log_dir / "first.log").read_text().strip(), 10, "the grandchild is up")
    poll(lambda: (log_dir / "second.log").read_text(), 10, "the deaf child is up")
    return [*pids, int(inner)]


def test_nothing_outlives_a_supervisor_that_is_killed(program: subprocess.Popen[str], tmp_path: Path) -> None:
    """SIGKILL of the supervisor ends its children, their children, the deaf ones, and the guard; all are asked."""
    pids = pids_of(program, tmp_path)
    program.kill()
    poll(lambda: not any(lives(pid) for pid in pids), 10, "all are gone")
    assert "asked" in (tmp_path / "first.log").read_text()


def test_sigterm_ends_the_wait_and_a_second_signal_kills_at_once(
    program: subprocess.Popen[str], tmp_path: Path
) -> None:
    """SIGTERM ends `wait` with its number; a second signal cuts the 30 s short that a deaf child has."""
    pids = pids_of(program, tmp_path)
    program.send_signal(signal.SIGTERM)
    assert program.stdout is not None
    assert program.stdout.readline() == "signal 15\n"
    assert all(lives(pid) for pid in pids)
    time.sleep(0.3)  # it is now waiting for the deaf child: nothing outside tells
    program.send_signal(signal.SIGINT)
    assert program.wait(10) == 0
    poll(lambda: not any(lives(pid) for pid in pids), 2, "all are gone")


def test_a_killed_guard_is_replaced(supervisor: Supervisor) -> None:
    """Whoever kills the guard does not stop the supervisor: the next start brings another one, which knows all."""
    supervisor.start(child("a"))
    assert supervisor._guard is not None
    first = supervisor._guard.pid
    os.kill(first, signal.SIGKILL)
    poll(lambda: not lives(first), 5, "the guard is gone")
    supervisor.start(child("b"))
    assert supervisor._guard.pid != first
    assert supervisor.running() == ["a", "b"]


def test_a_stopped_supervisor_starts_nothing(tmp_path: Path) -> None:
    """After its block a supervisor refuses to start anything, and the signal handlers are the former ones."""
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor(tmp_path) as supervisor:
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(RuntimeError, match="has stopped"):
        supervisor.start(child("a"))
