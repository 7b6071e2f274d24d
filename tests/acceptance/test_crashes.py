"""Processes die in mid-run: nothing is lost, and next to nothing is done twice (R3, R4)."""

from __future__ import annotations

import os
import signal
import time

import pytest

from schemas.states import RepackState
from tests.acceptance.stack import FIRST_ON_POSTGRESQL, FIRST_ON_SQLITE, PATIENCE, WORKERS, Seeded, Stack
from workers.store.repacks import Repack
from workers.store.shards import LEASED, list_shards

pytestmark = pytest.mark.acceptance

FORGETS_SECONDS = 2.0
"""How often the broker forgets: RabbitMQ drops the consumers of a queue that is gone, and they need a moment."""

CALL_SECONDS = 0.3
"""What a slow KMS takes to open a wrapping key: no run is over in the slice in which its workers are told to leave."""

AWAY_SECONDS = 6.0
"""How long the broker stays away: longer than a lease, a slice and all that a worker does before it looks again."""


def _begin(stack: Stack) -> Seeded:
    seeded = stack.seed()
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    return seeded


def _begin_slowly(stack: Stack) -> Seeded:
    """As `_begin`, with a KMS that takes its time until the test says otherwise."""
    seeded = stack.seed(hourly=24)
    stack.simulator.inject("delay", seconds=CALL_SECONDS, operation="Decrypt")
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    return seeded


def _still_runs(stack: Stack, seeded: Seeded) -> Repack:
    """The repack, which has not come to its end: the test interrupted what it meant to."""
    repack = stack.repack(seeded.environment)
    assert repack is not None
    assert repack.state == RepackState.RENEWING
    return repack


def test_a_killed_worker_costs_one_batch_at_most(stack: Stack) -> None:
    """SIGKILL of a worker that holds a lease: the other one takes its shard over and ends the run."""
    seeded = _begin(stack)
    caught = stack.catch(seeded.environment)
    stack.kill(caught)
    repack = _still_runs(stack, seeded)
    assert stack.takeovers(repack) == 0
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack, takeovers=1)
    assert stack.takeovers(repack) == 1


@pytest.mark.parametrize(
    ("stacks", "flushed"),
    [("sqlite", True), pytest.param("postgresql", True, marks=pytest.mark.long), ("postgresql", False)],
    ids=["sqlite-flushed", "postgresql-flushed", "postgresql"],
    indirect=["stacks"],
)
def test_all_workers_are_killed_and_new_ones_go_on(stack: Stack, flushed: bool) -> None:
    """SIGKILL of every worker in mid-run, with all messages lost as well: new ones find the work in the database."""
    seeded = _begin(stack)
    stack.catch(seeded.environment)
    for name in WORKERS:
        stack.kill(name)
    if flushed:
        stack.broker.forget()
    repack = _still_runs(stack, seeded)
    assert 0 < sum(part.seen for part in stack.progress(repack)) < seeded.roots + seeded.data_keys
    for name in WORKERS:
        stack.start_worker(name)
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack, takeovers=len(WORKERS))
    assert stack.takeovers(repack) >= 1


@FIRST_ON_POSTGRESQL
def test_a_worker_that_was_frozen_past_its_lease_does_no_harm(stack: Stack) -> None:
    """SIGSTOP until another worker has the shard, then SIGCONT: what the late one holds is void (R4)."""
    seeded = stack.seed(data=6000)
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    caught = stack.catch(seeded.environment, between_transactions=True)
    leader = stack.supervisor.pid(caught)
    assert leader is not None
    repack = _still_runs(stack, seeded)
    try:
        stack.wait_for(lambda: stack.takeovers(repack) > 0, PATIENCE, "its shard was taken over")
    finally:
        os.killpg(leader, signal.SIGCONT)
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack, takeovers=1)


@FIRST_ON_SQLITE
def test_a_warm_shutdown_ends_the_slice_and_loses_nothing(stack: Stack) -> None:
    """SIGTERM in mid-batch: workers commit, give their leases back and exit with 0; new ones need not wait."""
    stack.wait_until_ready(*WORKERS)
    seeded = _begin_slowly(stack)
    stack.started(seeded.environment, seen=100)
    for name in WORKERS:
        stack.kill(name, signal.SIGTERM)
    stack.wait_until_gone(*WORKERS)
    assert [one.status for one in stack.supervisor.exits if one.name in WORKERS][-2:] == [0, 0]
    repack = _still_runs(stack, seeded)
    with stack.services.database.read() as connection:
        assert [row["id"] for row in list_shards(connection, repack.id) if row["state"] == LEASED] == []
    stack.simulator.clear_faults()
    for name in WORKERS:
        stack.start_worker(name)
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack, takeovers=0)


@FIRST_ON_SQLITE
def test_a_flush_under_working_workers_is_survived(stack: Stack) -> None:
    """The broker forgets all, again and again, under workers that go on working: the run ends, and events are heard."""
    seeded = _begin(stack)
    repack = stack.started(seeded.environment)
    forgotten_at = 0.0

    def flushed() -> bool:
        nonlocal forgotten_at
        if time.monotonic() - forgotten_at > FORGETS_SECONDS:
            stack.broker.forget()
            forgotten_at = time.monotonic()
        now = stack.repack(seeded.environment)
        return now is not None and not now.is_open

    stack.wait_for(flushed, PATIENCE, "the end of the run")
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=0)
    second = str(stack.simulator.create_main_key())
    stack.replace(seeded.environment, second, mode="shallow")
    repack = stack.ended(seeded.environment, after=repack)
    stack.check_shallow(seeded, repack)


@FIRST_ON_POSTGRESQL
def test_a_broker_that_dies_and_comes_back_is_survived(stack: Stack) -> None:
    """The broker is killed in mid-run, stays away and comes back empty: the same workers reconnect, the run ends."""
    seeded = _begin_slowly(stack)
    workers = {name: stack.supervisor.pid(name) for name in WORKERS}
    stack.started(seeded.environment, seen=100)
    stack.broker.kill()
    before = stack.services.database.now()
    stack.wait_for(lambda: stack.services.database.now() > before + AWAY_SECONDS, PATIENCE, "a while has passed")
    _still_runs(stack, seeded)
    stack.simulator.clear_faults()
    stack.broker.start()
    repack = stack.ended(seeded.environment)
    stack.check_deep(seeded, repack, takeovers=len(WORKERS))
    assert {name: stack.supervisor.pid(name) for name in WORKERS} == workers
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()), mode="shallow")
    stack.check_shallow(seeded, stack.ended(seeded.environment, after=repack))
