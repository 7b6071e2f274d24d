"""Messages come twice, in any order, malformed, from anybody, or not at all (R2, R3)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError
from sqlalchemy import func, select

from producers.topology import DEAD, EVENTS, EXCHANGE, HOUSEKEEPING, REPACKS, URGENT, WORK_QUEUES
from producers.transports import transport_options
from schemas.events import CONTENT_TYPE, MAX_EVENT_BYTES, Event
from schemas.keys import MainKeyUri
from schemas.states import Mode
from tests.acceptance.brokers import RabbitBroker
from tests.acceptance.stack import (
    FIRST_ON_POSTGRESQL,
    FIRST_ON_SQLITE,
    ON_POSTGRESQL,
    PATIENCE,
    WORKERS,
    Stack,
    replaced,
    rotated,
)
from tests.poll import stretched
from workers.celery_app.app import make_app
from workers.celery_app.config import HANDLE_EVENT, SWEEP, WALK
from workers.celery_app.waker import CeleryWaker
from workers.compose import build_services
from workers.repack.lifecycle import start_repack
from workers.repack.starting import Request
from workers.store import models

pytestmark = pytest.mark.acceptance

BROKER_PATIENCE = 15.0
"""How long a start may wait for a broker that is away."""


@FIRST_ON_POSTGRESQL
def test_doubled_and_shuffled_messages_have_one_effect(stack: Stack) -> None:
    """Each event comes five times, between wake-ups for every repack there is, was and never will be."""
    seeded = [stack.seed(data=600) for _ in range(3)]
    targets = [str(stack.simulator.create_main_key()) for _ in seeded]
    events = [replaced(one.environment.environment_id, key) for one, key in zip(seeded, targets, strict=True)]
    celery = make_app(stack.settings)
    sends: list[Callable[[], Any]] = [partial(stack.publish, event.to_bytes()) for event in events * 5]
    ids = [*range(1, 40), 10**6, 2**62, -1, 0]
    sends += [partial(celery.send_task, WALK, args=[key], queue=REPACKS) for key in ids]
    sends += [partial(celery.send_task, HANDLE_EVENT, args=[key], queue=URGENT) for key in ids]
    random.Random(7).shuffle(sends)
    for send in sends:
        send()
    for one, event in zip(seeded, events, strict=True):
        repack = stack.ended(one.environment)
        assert stack.settled(event)["outcome"] == {"repack": str(repack.repack_id)}
        stack.check_deep(one, repack)
        with stack.services.database.read() as connection:
            started = select(func.count()).where(models.repacks.c.environment == one.environment.id)
            assert connection.execute(started).scalar_one() == 1
        assert stack.rejected(event.id) == []


@FIRST_ON_SQLITE
def test_events_that_contradict_each_other_are_settled_one_way(stack: Stack) -> None:
    """Two replacements at once: one has its effect, the other is refused as a conflict, and nothing is half done."""
    seeded = stack.seed(data=1200)
    events = [
        replaced(seeded.environment.environment_id, str(stack.simulator.create_main_key()), mode=mode)
        for mode in ("deep", "deep")
    ]
    for event in events:
        stack.publish(event.to_bytes())
    outcomes = sorted(stack.settled(event)["state"] for event in events)
    assert outcomes == ["handled", "rejected"]
    refused = next(event for event in events if stack.settled(event)["state"] == "rejected")
    assert [row["code"] for row in stack.rejected(refused.id)] == ["repack_conflict"]
    stack.check_deep(seeded, stack.ended(seeded.environment))


@FIRST_ON_POSTGRESQL
def test_what_is_no_event_is_kept_with_its_code_and_others_go_on(stack: Stack) -> None:
    """Malformed, unknown, replayed, oversized: each is listed with its reason, and the good one behind them runs."""
    seeded = stack.seed(data=200)
    environment, key = seeded.environment.environment_id, str(stack.simulator.create_main_key())
    asymmetric = stack.simulator.create_main_key(key_spec="RSA_2048")
    disabled, denied = stack.simulator.create_main_key(), stack.simulator.create_main_key(account="111122223333")
    stack.simulator.set_state(disabled.name, "Disabled")
    stack.simulator.deny(denied.name)
    deleted = stack.simulator.create_main_key()
    stack.simulator.delete(deleted.name)
    first = replaced(environment, str(disabled), event_id=str(uuid4()))
    replayed = replaced(environment, key, event_id=first.id)
    version_9 = first.model_copy(update={"id": str(uuid4()), "data": {**first.data, "version": 9}})
    cases: list[tuple[bytes, str | None, str]] = [
        (first.to_bytes(), first.id, "main_key_disabled"),
        (b"{", None, "malformed_json"),
        (b"\xff\xfe\x00", None, "malformed_json"),
        (b"[" * 60_000, None, "malformed_json"),
        (b'"' + b"x" * MAX_EVENT_BYTES + b'"', None, "too_large"),
        (b'{"specversion": "1.0"}', None, "malformed_event"),
        (b"[]", None, "malformed_event"),
        *_with_code(first.model_copy(update={"type": "main_key.painted"}), "unknown_type"),
        *_with_code(version_9, "unknown_version"),
        *_with_code(replaced(environment, "aws-kms:nonsense"), "malformed_main_key"),
        *_with_code(first.model_copy(update={"data": {"environment": "x"}}), "malformed_data"),
        *_with_code(replaced(uuid4(), key), "not_found"),
        *_with_code(replaced(environment, str(asymmetric)), "main_key_wrong_usage"),
        *_with_code(replaced(environment, str(denied)), "main_key_denied"),
        *_with_code(replaced(environment, str(deleted)), "main_key_deleted"),
        *_with_code(replaced(environment, "openbao:transit/none"), "main_key_unsupported"),
    ]
    before = _rejected_codes(stack)
    for body, _, code in cases:
        stack.publish(body, routing_key="main_key.painted" if code == "unknown_type" else "main_key.replaced")
    stack.settled(first)
    stack.publish(replayed.to_bytes())
    expected = sorted([code for _, _, code in cases] + ["replayed_id"])
    stack.wait_for(lambda: len(_rejected_codes(stack)) >= len(before) + len(expected), PATIENCE, "all are listed")
    assert sorted(_rejected_codes(stack)[: len(expected)]) == expected
    for _, event_id, code in cases:
        if event_id is not None:
            row = next(row for row in stack.rejected(event_id) if row["code"] == code)
            assert row["why"]
            assert row["remedy"]
    assert {row["code"] for row in stack.rejected(first.id)} == {"main_key_disabled", "replayed_id"}
    assert stack.repack(seeded.environment) is None
    stack.check_keys(seeded)
    stack.replace(seeded.environment, key)
    stack.check_deep(seeded, stack.ended(seeded.environment))


def _with_code(event: Event, code: str) -> list[tuple[bytes, str | None, str]]:
    fresh = event.model_copy(update={"id": str(uuid4())})
    return [(fresh.to_bytes(), fresh.id, code)]


def _rejected_codes(stack: Stack) -> list[str]:
    with stack.services.database.read() as connection:
        query = select(models.rejected_events.c.code).order_by(models.rejected_events.c.id.desc())
        return list(connection.execute(query).scalars())


@FIRST_ON_SQLITE
def test_messages_from_anybody_do_no_harm(stack: Stack) -> None:
    """Unknown tasks, wrong arguments, pickles, bytes that are no message: each is kept with a code, workers go on."""
    workers = {name: stack.supervisor.pid(name) for name in WORKERS}
    before, dead = len(_rejected_codes(stack)), stack.broker.waiting(DEAD)
    sent = _call_what_nobody_may(stack) + _publish_what_is_no_task(stack) + _publish_bare_bytes(stack)
    stack.wait_for(lambda: len(_rejected_codes(stack)) >= before + sent, PATIENCE, f"{sent} messages are listed")
    codes = _rejected_codes(stack)[:sent]
    assert len(_rejected_codes(stack)) == before + sent, "each once"
    assert set(codes) == {
        "unknown_task", "wrong_arguments", "too_large", "malformed_message", "malformed_json", "malformed_event",
    }  # fmt: skip
    seeded = stack.seed(data=200)
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    stack.check_deep(seeded, stack.ended(seeded.environment))
    assert {name: stack.supervisor.pid(name) for name in WORKERS} == workers
    assert stack.queued() == 0
    in_work = sent - codes.count("malformed_json") - codes.count("malformed_event")
    dead += in_work if isinstance(stack.broker, RabbitBroker) else 0
    stack.wait_for(lambda: stack.broker.waiting(DEAD) == dead, PATIENCE, f"{dead} dead letters")


def _call_what_nobody_may(stack: Stack) -> int:
    """Tasks that are not ours, and ours with what they do not take. How many."""
    celery, sent = make_app(stack.settings), 0
    for task, queue in [
        ("os.system", URGENT),
        ("celery.backend_cleanup", HOUSEKEEPING),
        ("celery.chord_unlock", URGENT),
        ("celery.map", REPACKS),
        (WALK, REPACKS),
        (HANDLE_EVENT, URGENT),
        (SWEEP, HOUSEKEEPING),
    ]:
        for arguments in (["'; drop table repacks; --"], [None], [{"a": [1]}], [1, 2, 3], [1e400], ["x" * 100_000]):
            celery.send_task(task, args=arguments, queue=queue)
            sent += 1
        celery.send_task(task, kwargs={"repack_id": [], "other": 1}, queue=queue)
        celery.send_task(task, args=[1], queue=queue, countdown=3600)
        sent += 2
    return sent


def _publish_what_is_no_task(stack: Stack) -> int:
    """Well-formed envelopes in every queue of work, with all kinds of things in them. How many."""
    call = {"task": WALK, "id": "1"}
    # Without confirms RabbitMQ may lose what was sent to a quorum queue just before the connection was closed.
    with Connection(stack.broker.url, transport_options=transport_options(stack.broker.url)) as connection:
        for queue in WORK_QUEUES:
            producer = connection.Producer(routing_key=queue)
            producer.publish({"a": 1}, serializer="pickle", headers=call)
            producer.publish("no task", content_type="text/plain", content_encoding="utf-8")
            producer.publish({"no": "task"}, serializer="json")
            producer.publish({}, serializer="json", headers={"task": 7, "id": None})
            producer.publish({}, serializer="json", headers={"task": [WALK], "id": "1"})
            producer.publish(b"\xff", content_type="application/json", content_encoding="utf-8", headers=call)
            producer.publish(b"[[1],{},{}]", content_type="application/json", content_encoding="no-such", headers={})
            producer.publish(b"plain", content_type="application/json", headers={**call, "compression": "zlib"})
            producer.publish(b"x" * 2_000_000, content_type="application/json", content_encoding="utf-8", headers=call)
    return 9 * len(WORK_QUEUES)


def _publish_bare_bytes(stack: Stack) -> int:
    """Bytes straight into every queue: in Redis into its list, where kombu expects its own envelope. How many."""
    # RabbitMQ drops what is sent to a queue that nobody has declared yet.
    stack.wait_for(stack.broker.hears, PATIENCE, "a worker has declared the queue of events")
    items = [b"\xff\x00no message", b"{", b"[]", b"[" * 50_000, b'{"body": 1, "properties": 7}', b"null"]
    for queue in (EVENTS, *WORK_QUEUES):
        for item in items:
            stack.broker.push(queue, item)
    return len(items) * (1 + len(WORK_QUEUES))


@ON_POSTGRESQL
def test_two_beats_sweep_once(stack: Stack) -> None:
    """A second beat ticks as well, and the job of each slot runs once."""
    stack.start_beat("beat-2")
    seeded = stack.seed()

    def ticked(name: str) -> int:
        return stack.logs().get(name, "").count("Sending due task sweep")

    stack.wait_for(lambda: min(ticked("beat"), ticked("beat-2")) >= 3, PATIENCE, "both beats tick")
    stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
    stack.check_deep(seeded, stack.ended(seeded.environment))
    with stack.services.database.read() as connection:
        slots = {tick.slot: tick.at for tick in connection.execute(select(models.ticks))}
    sweeps = [line["timestamp"] for line in stack.log_lines("sweep.finished")]
    assert len(sweeps) <= len(slots)
    assert ticked("beat") + ticked("beat-2") > len(sweeps)


@FIRST_ON_POSTGRESQL
def test_a_repack_started_while_the_broker_is_away_runs_when_it_is_back(stack: Stack) -> None:
    """Whoever starts a repack without a broker is not kept waiting, and the sweeper brings it home (R3)."""
    seeded = stack.seed()
    stack.broker.kill()
    services = build_services(stack.settings, wake=CeleryWaker(make_app(stack.settings)))
    try:
        target = MainKeyUri.parse(str(stack.simulator.create_main_key()))
        request = Request(environment=seeded.environment, target=target, mode=Mode.DEEP, actor="operator")
        begun = time.monotonic()
        repack = start_repack(services, request)
        assert time.monotonic() - begun < stretched(BROKER_PATIENCE)
    finally:
        services.close()
    assert repack.is_running
    stack.broker.start()
    stack.check_deep(seeded, stack.ended(seeded.environment))


@FIRST_ON_SQLITE
def test_a_rotation_heard_many_times_is_followed_once(stack: Stack) -> None:
    """`main_key.rotated` under many ids, as the KMS and a poller may send it: one shallow repack."""
    key = stack.simulator.create_main_key()
    seeded = stack.seed(main_key=str(key), data=200)
    stack.simulator.rotate(key.name)
    events = [rotated(seeded.environment.environment_id) for _ in range(6)]
    for event in events:
        stack.publish(event.to_bytes(), routing_key=event.type)
    assert {stack.settled(event)["state"] for event in events} == {"handled"}
    stack.check_shallow(seeded, stack.ended(seeded.environment))
    with stack.services.database.read() as connection:
        started = select(func.count()).where(models.repacks.c.environment == seeded.environment.id)
        assert connection.execute(started).scalar_one() == 1


@FIRST_ON_POSTGRESQL
def test_a_publisher_is_told_that_the_broker_is_away(stack: Stack) -> None:
    """Celery's own sending raises where ours stays silent: the waker is what keeps a start from failing."""
    stack.broker.kill()
    with pytest.raises(OperationalError):
        make_app(stack.settings).send_task(WALK, args=[1], queue=REPACKS, retry=False)


@FIRST_ON_SQLITE
def test_events_are_heard_again_after_a_flush(stack: Stack) -> None:
    """Another service that declares nothing publishes into a flushed broker: the sweeper has bound the queue again."""
    seeded = stack.seed(data=200)
    event = replaced(seeded.environment.environment_id, str(stack.simulator.create_main_key()))
    stack.broker.forget()
    stack.wait_for(stack.broker.hears, PATIENCE, "the queue is bound again")
    with Connection(stack.broker.url) as connection:
        producer = connection.Producer(auto_declare=False)

        def is_heard() -> bool:
            producer.publish(
                event.to_bytes(),
                exchange=EXCHANGE.name,
                routing_key=event.type,
                content_type=CONTENT_TYPE,
                content_encoding="utf-8",
            )
            return stack.repack(seeded.environment) is not None

        stack.wait_for(is_heard, PATIENCE, "the queue is there and, a moment later, bound")
    stack.check_deep(seeded, stack.ended(seeded.environment))
