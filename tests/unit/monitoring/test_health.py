"""Alive is progress: what a restart mends is dead, everything else is not."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from producers.topology import EVENTS, QUEUES, REPACKS, URGENT
from workers.broker.queue_depths import BrokerCounts, QueueCount
from workers.embedded.ports import LOOPBACK
from workers.errors import DatabaseAway
from workers.monitoring.health import CANARIES_MISSED, judge_service, judge_worker
from workers.monitoring.overview import Overview, QueueView, ScheduleView, WorkerView
from workers.monitoring.overview_reader import OverviewReader
from workers.monitoring.probe_server import KEPT_SECONDS, Listener, ProbeAnswer, Probes, shared_overview
from workers.services import Services
from workers.store.heartbeats import WorkerSeen

CANARY = 15.0
LATE = CANARY * CANARIES_MISSED + 1


class FullBroker:
    """One message in each queue."""

    answers = True

    def count(self) -> BrokerCounts:
        return BrokerCounts(answers=self.answers, why="" if self.answers else "The broker does not answer.",
                            queues={name: QueueCount(depth=1) for name in QUEUES})  # fmt: skip

    def close(self) -> None:
        pass


@pytest.fixture
def reader(services: Services) -> OverviewReader:
    """One that looks at an empty database with its schema, beside a broker with a message in each queue."""
    return OverviewReader(services.database, FullBroker(), services.settings)


@pytest.fixture
def overview(reader: OverviewReader) -> Overview:
    """All is well: one worker of two processes, each queue served."""
    seen = reader.read()
    queues = [replace(queue, canary_seconds=1.0) for queue in seen.queues]
    now = seen.now
    workers = [worker_view(now, EVENTS), worker_view(now, *QUEUES[1:], owner="child")]
    schedules = [replace(schedule, last_at=now, overdue_seconds=0.0) for schedule in seen.schedules]
    return replace(seen, queues=queues, workers=workers, schedules=schedules)


def worker_view(now: float, *queues: str, owner: str = "main", **values: Any) -> WorkerView:
    is_silent = values.pop("is_silent", False)
    times = {"started_at": now - 1000, "seen_at": now, "progressed_at": now - 2, "canary_at": None}
    noticed = {"lock_noticed_at": None, "lock_notice_seconds": None}
    seen = WorkerSeen(owner=owner, name="w1@host", host="host", pid=1, version="1", queues=queues,
                      **times | noticed | values)  # fmt: skip
    return WorkerView(seen=seen, is_silent=is_silent)


def with_queue(overview: Overview, name: str, **values: Any) -> Overview:
    changed: list[QueueView] = [replace(queue, **values) if queue.name == name else queue for queue in overview.queues]
    return replace(overview, queues=changed)


def stuck(overview: Overview) -> Overview:
    """Messages wait, no canary comes, and nobody has done anything for long."""
    workers = [worker_view(overview.now, *QUEUES, progressed_at=overview.now - LATE)]
    return with_queue(replace(overview, workers=workers), REPACKS, canary_seconds=LATE)


def test_a_worker_that_makes_progress_is_alive(overview: Overview) -> None:
    """By its name with or without its host."""
    assert judge_worker(overview, "w1", canary_seconds=CANARY).is_well
    assert judge_worker(overview, "w1@host", canary_seconds=CANARY).is_well
    assert judge_service(overview, canary_seconds=CANARY).is_well


def test_a_worker_that_takes_nothing_is_dead(overview: Overview) -> None:
    """It answers pings, messages wait in its queue, and neither a canary nor anything else comes of it."""
    health = judge_worker(stuck(overview), "w1", canary_seconds=CANARY)
    assert not health.is_well
    assert REPACKS in health.reasons[0]


@pytest.mark.parametrize(
    "why",
    ["nothing waits", "it works", "another one's queue"],
)
def test_what_a_restart_does_not_mend_is_not_dead(overview: Overview, why: str) -> None:
    """Nobody sends canaries: beat is away. Work takes long: it makes progress. A queue it does not serve."""
    seen = stuck(overview)
    if why == "nothing waits":
        seen = with_queue(seen, REPACKS, depth=0)
    elif why == "it works":
        seen = replace(seen, workers=[worker_view(seen.now, *QUEUES)])
    else:
        seen = replace(seen, workers=[worker_view(seen.now, URGENT, progressed_at=seen.now - LATE)])
    assert judge_worker(seen, "w1", canary_seconds=CANARY).is_well


def test_a_frozen_process_is_dead_unless_another_serves_its_queues(overview: Overview) -> None:
    """A child that was killed leaves a silent row behind for an hour, beside the one that took its place."""
    alone = replace(overview, workers=[worker_view(overview.now, URGENT, is_silent=True)])
    assert not judge_worker(alone, "w1", canary_seconds=CANARY).is_well
    both = replace(alone, workers=[*alone.workers, worker_view(overview.now, URGENT, owner="new")])
    assert judge_worker(both, "w1", canary_seconds=CANARY).is_well


def test_a_worker_nobody_knows_is_not_alive(overview: Overview) -> None:
    """It was never there, or is long gone."""
    assert judge_worker(overview, "w2", canary_seconds=CANARY).reasons == ("No process of worker w2 is heard of.",)


def test_the_whole_makes_progress_when_every_part_does(overview: Overview) -> None:
    """A queue without a canary, a clock that stands still, a broker that is away: each is named."""
    never = with_queue(overview, URGENT, canary_seconds=None)
    assert [URGENT in reason for reason in judge_service(never, canary_seconds=CANARY).reasons] == [True]
    stopped: list[ScheduleView] = [replace(one, overdue_seconds=99_999.0) for one in overview.schedules]
    assert len(judge_service(replace(overview, schedules=stopped), canary_seconds=CANARY).reasons) == len(stopped)
    away = replace(overview, broker=BrokerCounts(answers=False, why="The broker does not answer."))
    assert judge_service(away, canary_seconds=CANARY).reasons == ("The broker does not answer.",)


def test_one_look_serves_all_who_ask_within_a_second(overview: Overview) -> None:
    """A hundred probes cost what one costs."""
    looks, now = [], [0.0]

    def look() -> Overview:
        looks.append(1)
        return overview

    shared = shared_overview(look, clock=lambda: now[0])
    shared()
    shared()
    assert len(looks) == 1
    now[0] = KEPT_SECONDS + 0.1
    shared()
    assert len(looks) == 2


def test_a_starting_worker_is_given_time(services: Services, reader: OverviewReader) -> None:
    """It need not have been heard of for a minute; then it has to."""
    now = [0.0]
    probes = Probes(services.database, reader.read, services.settings, worker="w9", clock=lambda: now[0])
    assert probes.alive().is_well
    now[0] = 61.0
    assert not probes.alive().is_well


def test_a_database_that_is_away_kills_no_worker(services: Services) -> None:
    """Nobody can tell how it is, and a restart would not bring the database back; ready it is not."""

    def away() -> Overview:
        raise DatabaseAway("stopped")

    probes = Probes(services.database, away, services.settings, worker="w1", grace=0)
    assert probes.alive().is_well
    assert not probes.ready().is_well


@pytest.fixture
def listener(services: Services, reader: OverviewReader) -> Iterator[Listener]:
    """One that serves the probes of nobody, and a page that fails."""

    def fails(_: object) -> ProbeAnswer:
        raise ValueError("secret")

    probes = Probes(services.database, reader.read, services.settings, worker="w9", grace=0)
    made = Listener(LOOPBACK, 0, probes.pages() | {"/fails": fails})
    made.start()
    yield made
    made.close()


def ask(listener: Listener, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, listener.port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_probes_answer_with_a_status_and_reasons(listener: Listener) -> None:
    """503 and why; nothing but a few fixed paths is served, and what fails says no more than that."""
    status, body = ask(listener, "/livez")
    assert (status, json.loads(body)) == (503, {"ok": False, "reasons": ["No process of worker w9 is heard of."]})
    status, body = ask(listener, "/readyz?verbose")
    assert status == 503, "the test's database was made without Alembic"
    assert ask(listener, "/livez", "HEAD") == (503, b"")
    assert ask(listener, "/../etc/passwd")[0] == 404
    assert ask(listener, "/livez", "POST")[0] == 501
    status, body = ask(listener, "/fails")
    assert (status, b"secret" in body) == (500, False)
