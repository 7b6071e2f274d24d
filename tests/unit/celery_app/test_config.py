"""Celery ignores a setting it does not know in silence: each of ours is held against this Celery and this kombu."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
from celery import Celery
from celery.app.defaults import SETTING_KEYS
from celery.beat import Scheduler
from celery.utils.quorum_queues import detect_quorum_queues
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.transport import pyamqp
from kombu.utils.imports import symbol_by_name
from pydantic import SecretStr

from producers.topology import HOUSEKEEPING, QUEUES, REPACKS, URGENT, WORK_QUEUES
from workers.broker import redis_transport
from workers.celery_app.app import make_app
from workers.celery_app.config import (
    CANARY,
    HANDLE_EVENT,
    POLL_MAIN_KEYS,
    PUBLISH_OUTBOX,
    SWEEP,
    TASK_IDS,
    WAKE_UP_LIFETIME,
    WALK,
    celery_settings,
)
from workers.celery_app.wake_up_consumer import WakeUpConsumer
from workers.runtime.settings import Settings

SETTINGS = celery_settings(Settings())


@pytest.fixture
def celery() -> Celery:
    """An application of its own, from default settings."""
    return make_app(Settings())


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_celery_knows_the_setting(name: str) -> None:
    """Every setting's name is one of this Celery's."""
    assert name in SETTING_KEYS


def test_an_unknown_setting_would_be_seen() -> None:
    """The table of names that the test above asks is not one that holds everything."""
    assert "worker_prefetch_multiplier" in SETTING_KEYS
    assert "worker_prefetch_multiplicator" not in SETTING_KEYS


def test_the_database_is_the_record(celery: Celery) -> None:
    """There is no result backend, no result is kept, and no event a task is sent (R3)."""
    assert celery.conf.result_backend is None
    assert type(celery.backend).__name__ == "DisabledBackend"
    assert celery.conf.task_ignore_result is True
    assert celery.conf.worker_send_task_events is False
    assert celery.conf.task_send_sent_event is False
    for name in (WALK, HANDLE_EVENT, SWEEP, PUBLISH_OUTBOX):
        assert celery.tasks[name].ignore_result is True


def test_whoever_reaches_the_broker_gets_no_further(celery: Celery) -> None:
    """No remote control, and JSON alone: a pickle is code, a broadcast shuts workers down."""
    assert celery.conf.worker_enable_remote_control is False
    assert celery.conf.accept_content == ["json"]
    assert celery.conf.task_serializer == "json"
    assert celery.conf.task_create_missing_queues is False


def test_a_wake_up_comes_back_and_is_never_hoarded(celery: Celery) -> None:
    """Acknowledged late, one at a time, and never given back for ever by a task that kills its worker."""
    assert celery.conf.task_acks_late is True
    assert celery.conf.worker_prefetch_multiplier == 1
    assert celery.conf.task_reject_on_worker_lost is False
    assert celery.conf.task_acks_on_failure_or_timeout is True
    for name in (WALK, HANDLE_EVENT, SWEEP, PUBLISH_OUTBOX):
        assert celery.tasks[name].acks_late is True


@pytest.mark.parametrize("slice_seconds", [0.5, 20, 120])
def test_a_slice_ends_long_before_its_message_is_handed_out_again(slice_seconds: float) -> None:
    """Slice < soft limit < hard limit; and the slice is far shorter than the visibility timeout by default."""
    settings = Settings(slice_seconds=slice_seconds)
    values = celery_settings(settings)
    assert slice_seconds < values["task_soft_time_limit"] < values["task_time_limit"]
    assert Settings().slice_seconds * 10 <= Settings().visibility_timeout


def test_urgent_messages_come_first(celery: Celery) -> None:
    """Redis serves queues in the order in which they are named, and the urgent one is named first."""
    assert SETTINGS["broker_transport_options"]["queue_order_strategy"] == "priority"
    assert WORK_QUEUES == (URGENT, HOUSEKEEPING, REPACKS)
    assert [queue.name for queue in celery.conf.task_queues] == list(WORK_QUEUES)
    assert all(queue.durable for queue in celery.conf.task_queues)


@pytest.mark.parametrize(
    ("url", "transport"),
    [("redis://h:1/0", redis_transport.Transport), ("rediss://h:1/0", redis_transport.Transport),
     ("amqp://h:1/v", pyamqp.Transport), ("amqps://h:1/v", pyamqp.SSLTransport)],
)  # fmt: skip
def test_each_broker_is_spoken_to_through_the_right_transport(url: str, transport: type) -> None:
    """Redis through our own, which a stranger's bytes do not end; RabbitMQ through kombu's."""
    connection = make_app(Settings(broker_url=SecretStr(url))).connection_for_read()
    assert type(connection.transport) is transport


def test_prefetch_is_never_shared_between_queues_on_rabbitmq() -> None:
    """Quorum queues refuse a channel's global limit: Celery sees that ours are such, and limits each consumer."""
    celery = make_app(Settings(broker_url=SecretStr("amqp://h:1/v")))
    assert celery.conf.worker_detect_quorum_queues is True
    assert detect_quorum_queues(celery, "amqp") == (True, URGENT)
    assert detect_quorum_queues(celery, "redis") == (False, "")


def test_nothing_is_declared_for_tasks_that_are_put_off() -> None:
    """Celery would make 28 queues on RabbitMQ; all its other steps are there."""
    assert symbol_by_name(SETTINGS["worker_consumer"]) is WakeUpConsumer
    theirs, ours = set(Consumer.Blueprint.default_steps), set(WakeUpConsumer.Blueprint.default_steps)
    assert theirs - ours == {"celery.worker.consumer.delayed_delivery:DelayedDelivery"}
    assert ours < theirs


def test_a_broker_that_is_back_is_found_within_seconds(monkeypatch: pytest.MonkeyPatch, celery: Celery) -> None:
    """Celery looks again after 2, 4, 6 … 30 seconds; a worker of ours looks every 3 at the latest."""
    asked: list[dict[str, float]] = []

    def ensure(self: Connection, *_: object, **options: float) -> Connection:
        asked.append(inspect.signature(Connection._ensure_connection).bind(self, **options).arguments)
        return self

    monkeypatch.setattr(Connection, "ensure_connection", ensure)
    consumer = object.__new__(WakeUpConsumer)
    consumer.app, consumer.first_connection_attempt = celery, False
    consumer.ensure_connected(Connection("memory://"))
    assert [options["interval_max"] for options in asked] == [3.0]
    assert asked[0]["interval_start"] < 1


def test_only_our_own_tasks_can_be_called(celery: Celery) -> None:
    """Whoever can push to the broker can call any registered task: there are six, and none of Celery's own."""
    assert set(celery.tasks) == {WALK, HANDLE_EVENT, SWEEP, PUBLISH_OUTBOX, POLL_MAIN_KEYS, CANARY}


def test_a_task_takes_one_id_at_most(celery: Celery) -> None:
    """A message is a wake-up: nothing but an id comes with it (R3)."""
    assert set(TASK_IDS) == set(celery.tasks)
    for name, count in TASK_IDS.items():
        assert len(inspect.signature(celery.tasks[name].run).parameters) == count


def test_beat_sends_our_jobs_alone(celery: Celery) -> None:
    """Celery's own daily clean-up of results, which we have not, is not on the clock."""
    scheduler = Scheduler(celery, lazy=True)
    scheduler.setup_schedule()
    assert {entry.task for entry in scheduler.schedule.values()} == {SWEEP, POLL_MAIN_KEYS, CANARY}
    jobs = [entry for entry in scheduler.schedule.values() if entry.task != CANARY]
    assert {entry.options["queue"] for entry in jobs} == {HOUSEKEEPING}
    assert all(entry.options["expires"] > 0 for entry in scheduler.schedule.values())


def test_a_canary_goes_straight_into_each_queue() -> None:
    """Past the exchange, and nothing is declared on the way: what the queue of events is like, its consumer says."""
    entries = [entry for entry in SETTINGS["beat_schedule"].values() if entry["task"] == CANARY]
    assert [entry["options"]["queue"].name for entry in entries] == list(QUEUES)
    for entry in entries:
        assert (entry["options"]["queue"].exchange.name, entry["options"]["declare"]) == ("", [])
        assert entry["options"]["expires"] == WAKE_UP_LIFETIME, "they do not pile up where nobody takes them"


def test_beat_looks_up_often_enough() -> None:
    """Beat never sleeps longer than until the next sweep or poll."""
    assert celery_settings(Settings(poll_interval=2))["beat_max_loop_interval"] <= 0.5
    assert celery_settings(Settings(sweep_seconds=1))["beat_max_loop_interval"] <= 1
    assert celery_settings(Settings(sweep_seconds=3600))["beat_max_loop_interval"] <= 5


def test_the_brokers_password_is_in_no_repr() -> None:
    """Settings hide the URL of the broker, and Celery masks the password where it shows it (R10)."""
    settings = Settings(broker_url="redis://:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in repr(settings)
    celery = make_app(settings)
    assert "hunter2" not in celery.connection_for_read().as_uri()
    assert "hunter2" not in celery.bugreport()


def test_the_names_of_tasks_stay() -> None:
    """They are in messages: a release that renamed one would refuse the wake-ups of the release before it."""
    assert sorted(TASK_IDS) == [
        "keyrepack.canary", "keyrepack.handle_event", "keyrepack.poll_main_keys", "keyrepack.publish_outbox",
        "keyrepack.sweep", "keyrepack.walk",
    ]  # fmt: skip


def test_nothing_is_made_at_import() -> None:
    """Importing every module of the folder reads no settings: a wrong one is told by the command, in a sentence."""
    code = (
        "import importlib, pkgutil, workers.celery_app as folder\n"
        "for found in pkgutil.iter_modules(folder.__path__):\n"
        "    importlib.import_module(f'workers.celery_app.{found.name}')"
    )
    environment = os.environ | {"KEYREPACK_BATCH_SIZE": "none that can be"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
