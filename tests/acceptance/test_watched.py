"""What operators see of real processes: queues, canaries, workers, rates."""

from __future__ import annotations

import os
import signal

import pytest

from producers.topology import EVENTS, QUEUES, WORK_QUEUES
from tests.acceptance.stack import ON_SQLITE, PATIENCE, WORKERS, Stack
from workers.broker.queue_depths import broker_of
from workers.monitoring.overview import Overview
from workers.monitoring.overview_reader import OverviewReader

pytestmark = [pytest.mark.acceptance, ON_SQLITE]


def test_every_queue_shows_that_it_is_served(stack: Stack) -> None:
    """A canary comes through each; workers say what they serve and what they did; a repack's keys are counted.

    With the workers frozen, canaries wait in their queues: that is seen by their number and age.
    """
    reader = OverviewReader(stack.services.database, broker_of(stack.broker.url), stack.settings)
    seen = reader.read()

    def look() -> Overview:
        nonlocal seen
        seen = reader.read()
        return seen

    def all_served() -> bool:
        return all(queue.canary_seconds is not None and queue.canary_seconds < 5 for queue in look().queues)

    stack.wait_for(all_served, PATIENCE, "a canary through each queue")
    assert seen.broker.answers
    assert all(queue.canary_wait_seconds is not None and queue.depth is not None for queue in seen.queues)
    heard = [worker.seen for worker in seen.workers if not worker.is_silent]
    assert {queues for worker in heard for queues in worker.queues} == set(QUEUES)
    for name in WORKERS:
        mine = [worker for worker in heard if worker.name.startswith(f"{name}@")]
        assert {worker.queues for worker in mine} >= {(EVENTS,)}
        assert any(set(worker.queues) == set(WORK_QUEUES) for worker in mine)

    before = seen.outcomes.rewrapped
    seeded = stack.seed(data=600)
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    repack = stack.ended(seeded.environment)
    assert look().outcomes.rewrapped - before >= seeded.data_keys, repack
    stack.wait_for(lambda: any(rate > 0 for _, rate in look().rates), PATIENCE, "a rate of the run")

    _signal_all(stack, signal.SIGSTOP)
    try:
        stack.wait_for(lambda: all(queue.depth for queue in look().queues), PATIENCE, "canaries that wait")
        assert all(queue.oldest_seconds is not None for queue in seen.queues)
        stack.wait_for(lambda: all((queue.canary_seconds or 0) > 3 for queue in look().queues), PATIENCE, "their age")
    finally:
        _signal_all(stack, signal.SIGCONT)
    stack.wait_for(all_served, PATIENCE, "canaries again")
    reader.close()


def _signal_all(stack: Stack, number: int) -> None:
    """To the workers and their children."""
    for name in WORKERS:
        leader = stack.supervisor.pid(name)
        assert leader is not None
        os.killpg(leader, number)
