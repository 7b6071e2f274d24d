"""What the pages and the metrics are made of, over both databases: sums, rows of workers, canaries, counters."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import event

from producers.topology import EVENTS, QUEUES, REPACKS, SENT_AT
from schemas.states import Mode, Stage
from tests.engine import World, usual_tree
from workers.broker.queue_depths import BrokerCounts, QueueCount
from workers.locks import locking
from workers.maintenance import queue_canaries, sweeper
from workers.maintenance.audit_check import verify_audit
from workers.maintenance.heartbeat import Heartbeat
from workers.monitoring.overview import Overview
from workers.monitoring.overview_reader import SILENT_SECONDS, OverviewReader
from workers.repack.lifecycle import walk_slice
from workers.runtime.counters import BATCH_SECONDS, BUCKET, LEASE_LOSSES, MESSAGES_TAKEN, SUM, Counters
from workers.services import Services
from workers.store import models
from workers.store.counters import add_counts, read_counts
from workers.store.database import Database
from workers.store.heartbeats import KEPT_SECONDS, list_workers
from workers.store.schedule import SWEEP
from workers.store.shards import claim_shard


class FakeBroker:
    """Tells what a test puts in."""

    def __init__(self) -> None:
        self.answers, self.depth = True, 0

    def count(self) -> BrokerCounts:
        """See Broker.count."""
        if not self.answers:
            return BrokerCounts(answers=False, why="The broker does not answer.")
        return BrokerCounts(answers=True, queues={name: QueueCount(depth=self.depth) for name in QUEUES})

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.fixture
def reader(world: World) -> OverviewReader:
    """One that looks at the world."""
    return OverviewReader(world.main.database, FakeBroker(), world.main.settings)


def presence_of(services: Services, *queues: str) -> Heartbeat:
    """A process among the workers, that writes when a test says so."""
    return Heartbeat(services.database, services.counters, owner=services.owner, name="worker-1", queues=queues)


def test_counts_of_processes_add_up(database: Database) -> None:
    """Each adds what it counted since the last time; nobody's is lost or written over."""
    first, second = Counters(), Counters()
    first.count(LEASE_LOSSES)
    first.observe(BATCH_SECONDS, "move", seconds=0.3)
    second.observe(BATCH_SECONDS, "move", seconds=99)
    second.count(LEASE_LOSSES, by=2)
    for counters in (first, second, first):
        with database.write() as connection:
            add_counts(connection, counters.take())
    with database.read() as connection:
        assert read_counts(connection) == {
            (LEASE_LOSSES, ()): 3,
            (BATCH_SECONDS + SUM, ("move",)): 99.3,
            (BATCH_SECONDS + BUCKET, ("move", "0.5")): 1,
            (BATCH_SECONDS + BUCKET, ("move", "+Inf")): 1,
        }


def test_a_worker_says_what_it_is_and_what_it_holds(world: World) -> None:
    """Its row has version, queues and times; its lease is looked up; an orderly end takes it away."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    presence = presence_of(world.main, REPACKS)
    presence.write()
    with world.main.database.write() as connection:
        (before,) = list_workers(connection)
        shard = claim_shard(connection, repack.id, owner=world.main.owner, lease_seconds=30)
    assert (before.name, before.queues, before.progressed_at, before.lease) == ("worker-1", (REPACKS,), None, None)
    presence.note_progress(REPACKS, canary=True)
    presence.write()
    with world.main.database.read() as connection:
        (after,) = list_workers(connection)
        assert read_counts(connection)[(MESSAGES_TAKEN, (REPACKS,))] == 1
    assert shard is not None
    assert after.lease == shard.id
    assert after.progressed_at == pytest.approx(after.seen_at, abs=1)
    assert after.canary_at == pytest.approx(after.seen_at, abs=1)
    presence.close()
    with world.main.database.read() as connection:
        assert list_workers(connection) == []


def test_a_worker_that_was_forgotten_comes_back(world: World) -> None:
    """Rows of the long gone are dropped by whoever comes; one who was only frozen writes its own again."""
    frozen, fresh = presence_of(world.main), presence_of(world.process())
    frozen.write()
    with world.main.database.write() as connection:
        connection.execute(models.workers_seen.update().values(seen_at=time.time() - KEPT_SECONDS - 60))
    fresh.write()
    with world.main.database.read() as connection:
        assert [worker.owner for worker in list_workers(connection)] == [fresh.owner]
    frozen.write()
    with world.main.database.read() as connection:
        assert {worker.owner for worker in list_workers(connection)} == {fresh.owner, frozen.owner}


def test_a_worker_that_is_not_heard_of_is_silent(world: World, reader: OverviewReader) -> None:
    """It was killed, is frozen, or cannot reach the database; it serves no queue then."""
    presence_of(world.main, REPACKS).write()
    seen = reader.read()
    assert [worker.is_silent for worker in seen.workers] == [False]
    assert {queue.name: queue.consumers for queue in seen.queues}[REPACKS] == 1
    with world.main.database.write() as connection:
        connection.execute(models.workers_seen.update().values(seen_at=time.time() - SILENT_SECONDS - 5))
    seen = reader.read()
    assert [worker.is_silent for worker in seen.workers] == [True]
    assert {queue.name: queue.consumers for queue in seen.queues}[REPACKS] == 0


def test_a_canary_is_known_by_its_queue(world: World, reader: OverviewReader) -> None:
    """The newest counts; a queue that is none of ours is not written down; without a stamp the wait is unknown."""
    database = world.main.database
    queue_canaries.arrive(database, REPACKS, headers={SENT_AT: time.time() - 100}, owner="a")
    queue_canaries.arrive(database, REPACKS, headers={SENT_AT: time.time() - 7}, owner="b")
    queue_canaries.arrive(database, EVENTS, headers={SENT_AT: "yesterday"}, owner="b")
    queue_canaries.arrive(database, "somebody.else", headers={}, owner="b")
    seen = {queue.name: queue for queue in reader.read().queues}
    assert seen[REPACKS].canary_wait_seconds == pytest.approx(7, abs=3)
    assert seen[REPACKS].canary_seconds == pytest.approx(0, abs=3)
    assert (seen[EVENTS].canary_wait_seconds, seen[EVENTS].canary_seconds is None) == (None, False)
    assert [row["queue"] for row in world.rows(models.canaries)] == [EVENTS, REPACKS]


def test_an_overview_follows_a_repack(world: World, reader: OverviewReader) -> None:
    """Every key is in one outcome or still remaining, from the start to the end, and stays counted afterwards."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    begun = reader.read()
    assert (begun.repacks, begun.remaining, begun.outcomes.rewrapped) == ({"moving": 1}, 5, 0)
    assert [(run.environment, run.stage, run.shards_done) for run in begun.runs] == [("acme/production", Stage.MOVE, 0)]
    assert sum(begun.stages[0].shards.values()) == begun.runs[0].shards
    done = world.run(repack)
    ended = reader.read()
    assert (ended.repacks, ended.remaining, ended.runs) == ({}, 0, [])
    assert ended.outcomes.rewrapped == sum(row["rewrapped"] for row in world.rows(models.shards))
    assert done.ended_at is not None
    _age_repacks(world, 100)
    later = OverviewReader(world.main.database, FakeBroker(), world.main.settings)
    assert [later.read().outcomes, later.read().outcomes] == [ended.outcomes] * 2, "settled sums are taken once"
    world.repack(environment, "memory:c", Mode.SHALLOW)
    assert later.read().outcomes.rewrapped == ended.outcomes.rewrapped + 5


def _age_repacks(world: World, seconds: float) -> None:
    with world.main.database.write() as connection:
        connection.execute(models.repacks.update().values(ended_at=models.repacks.c.ended_at - seconds))


def test_an_overview_says_what_is_wrong(world: World, reader: OverviewReader) -> None:
    """Locks with their cause, repacks that are blocked with theirs, what waits to be published."""
    environment = world.environment()
    usual_tree(world, environment)
    world.start(environment)
    locking.revoke(world.main, [environment], actor="customer", reason="leaving")
    seen = reader.read()
    assert (seen.locked, seen.repacks, seen.environments) == ({"revoked": 1}, {"blocked": 1}, 1)
    assert (seen.locks[0].environment, seen.locks[0].cause) == ("acme/production", "revoked")
    assert (seen.runs[0].block_side, seen.runs[0].rate) == ("environment", None)
    assert seen.blocked_since == seen.runs[0].blocked_at
    assert seen.outbox.waiting > 0
    assert seen.outbox.oldest_at is not None


def test_a_broker_that_is_away_is_said_to_be_so(world: World) -> None:
    """Everything else is still there."""
    broker = FakeBroker()
    broker.answers = False
    seen = OverviewReader(world.main.database, broker, world.main.settings).read()
    assert not seen.broker.answers
    assert {queue.depth for queue in seen.queues} == {None}
    assert [queue.name for queue in seen.queues] == list(QUEUES)


def test_schedules_have_a_last_tick_and_a_next(world: World, reader: OverviewReader) -> None:
    """A job that never ran is told from one that is late."""
    every = world.main.settings.sweep_seconds
    assert {schedule.overdue_seconds for schedule in reader.read().schedules} == {None}
    assert sweeper.take_tick(world.main, SWEEP, every)
    with world.main.database.write() as connection:
        connection.execute(models.ticks.update().values(at=time.time() - 3 * every))
    (sweep,) = [schedule for schedule in reader.read().schedules if schedule.job == SWEEP]
    assert sweep.overdue_seconds == pytest.approx(2 * every, abs=5)
    assert (sweep.every_seconds, sweep.drift_seconds) == (every, None)


def test_the_audit_chain_is_followed_and_the_verdict_kept(world: World, reader: OverviewReader) -> None:
    """Whole and since when; broken and where."""
    assert reader.read().audit is None
    world.environment()
    verify_audit(world.main)
    found = reader.read().audit
    assert found is not None
    assert (found.whole, found.records) == (True, 1)
    with world.main.database.write() as connection:
        connection.execute(models.audit.update().values(actor="somebody else"))
    verify_audit(world.main)
    found = reader.read().audit
    assert found is not None
    assert (found.whole, found.broken_at) == (False, 1)


def test_a_lost_lease_is_counted(world: World) -> None:
    """The batch was void, and somebody wants to know how often that happens."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)

    class Meddler:
        def enter(self, kind: str) -> None:
            pass

        def before_commit(self) -> None:
            pass

        def committed(self) -> None:
            with world.main.database.write() as connection:
                connection.execute(models.shards.update().values(token=models.shards.c.token + 1))

    process = world.process(door=Meddler())  # type: ignore[arg-type]
    walk_slice(process, repack.id)
    assert process.counters.take()[(LEASE_LOSSES, ())] >= 1


def test_a_look_reads_no_key(world: World, reader: OverviewReader) -> None:
    """Counts come from shards and small tables: the statements of a look name no table of keys."""
    statements: list[str] = []
    event.listen(world.main.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    assert isinstance(reader.read(), Overview)
    assert statements
    big = (models.data_keys, models.wrapping_keys, models.wrapping_versions, models.root_wraps, models.audit)
    for statement in statements:
        assert not {table.name for table in big} & set(statement.replace(".", " ").split()), statement
