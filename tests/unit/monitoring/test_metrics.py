"""The text of /metrics: every number has a source, no label names a tenant, and a database that is away is said so."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engine import World, usual_tree
from workers.broker.queue_depths import broker_of
from workers.crypto.epochs import Epochs
from workers.errors import DatabaseAway, KmsRefused
from workers.kms.local.memory import MemoryKms
from workers.kms.rate_limit.budget import Left
from workers.kms.registry import KmsRegistry
from workers.locks import locking
from workers.maintenance import queue_canaries
from workers.maintenance.audit_check import verify_audit
from workers.maintenance.heartbeat import Heartbeat
from workers.monitoring.metrics import make_page
from workers.monitoring.overview import Overview
from workers.monitoring.overview_reader import OverviewReader
from workers.runtime.counters import KMS_CALLS, KMS_SECONDS, LOCK_NOTICE_SECONDS, Counters
from workers.services import Services

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

CLOSED_BROKER = "redis://127.0.0.1:1/0"


@pytest.fixture
def reader(world: World) -> Iterator[OverviewReader]:
    """One that looks at the world, beside a broker that is away."""
    reader = OverviewReader(world.main.database, broker_of(CLOSED_BROKER), world.main.settings)
    yield reader
    reader.close()


def scraped(reader: OverviewReader) -> Samples:
    """What Prometheus reads."""
    _, body = make_page(reader.read)("")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def one(samples: Samples, name: str, **labels: str) -> float:
    return samples[(f"keyrepack_{name}", tuple(sorted(labels.items())))]


def write(services: Services) -> None:
    """What the process counted gets where metrics are read."""
    Heartbeat(services.database, services.counters, owner=services.owner, name="w1", queues=[]).write()


def test_a_run_is_counted_from_its_start_to_its_end(world: World, reader: OverviewReader) -> None:
    """Keys by outcome and what remains of them, shards, batches and their seconds, what waits to be published."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    begun = scraped(reader)
    assert one(begun, "repacks", state="moving") == 1
    assert one(begun, "keys_remaining", stage="move", level="1") == 5
    assert one(begun, "shards", state="pending") == 2
    world.run(repack)
    write(world.main)
    ended = scraped(reader)
    assert one(ended, "keys_total", outcome="rewrapped") == 17
    assert one(ended, "keys_total", outcome="quarantined") == 0
    assert one(ended, "wrapping_versions_total", act="minted") == 3
    assert one(ended, "repacks", state="moving") == 0
    assert one(ended, "batch_seconds_count", stage="move") >= 2
    assert one(ended, "batch_seconds_bucket", stage="move", le="+Inf") == one(
        ended, "batch_seconds_count", stage="move"
    )
    assert one(ended, "outbox_events") > 0
    assert one(ended, "outbox_oldest_seconds") >= 0


def test_what_never_happened_is_as_old_as_can_be(reader: OverviewReader) -> None:
    """An alert on an age must see a canary that never came, and a clock that never ran."""
    samples = scraped(reader)
    assert one(samples, "canary_age_seconds", queue="keyrepack.urgent") == float("inf")
    assert one(samples, "schedule_overdue_seconds", job="sweep") == float("inf")
    assert one(samples, "audit_verified_timestamp_seconds") == 0
    assert one(samples, "broker_up") == 0
    assert one(samples, "database_up") == 1


def test_what_was_seen_is_told(world: World, reader: OverviewReader) -> None:
    """Locks by cause, the audit's verdict, canaries by queue."""
    environment = world.environment()
    locking.revoke(world.main, [environment], actor="customer")
    verify_audit(world.main)
    queue_canaries.arrive(world.main.database, "keyrepack.urgent", headers={}, owner="w1")
    samples = scraped(reader)
    assert one(samples, "locked_environments", cause="revoked") == 1
    assert one(samples, "locked_environments", cause="lost") == 0
    assert (one(samples, "audit_whole"), one(samples, "audit_records")) == (1, 2)
    assert one(samples, "canary_age_seconds", queue="keyrepack.urgent") == 0


def test_no_label_names_a_tenant(world: World, reader: OverviewReader) -> None:
    """Metrics go to systems and people that may not know who the customers are."""
    environment = world.environment("acme-corporation/production", main_key="memory:their-key")
    usual_tree(world, environment)
    locking.revoke(world.main, [environment], actor="customer", reason="acme leaves")
    write(world.main)
    _, body = make_page(reader.read)("")
    for word in ("acme", "production", "their-key", str(environment.environment_id)):
        assert word not in body.decode()


def test_a_database_that_is_away_is_one_number() -> None:
    """A scrape that fails says less than one that says why."""

    def away() -> Overview:
        raise DatabaseAway("stopped")

    content_type, body = make_page(away)("")
    assert b"keyrepack_database_up 0.0" in body
    assert b"keyrepack_build_info{version=" in body
    assert content_type.startswith("text/plain")


def test_openmetrics_is_spoken_to_who_asks_for_it(reader: OverviewReader) -> None:
    """By its content type; every family has a help text and a type."""
    content_type, body = make_page(reader.read)("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    names = set(re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE))
    assert names == set(re.findall(r"^# HELP (\S+) \S", body.decode(), re.MULTILINE))


def test_kms_calls_are_counted_by_operation_and_code(world: World) -> None:
    """Whoever asked through the registry: what was answered, what was refused, and how long it took."""
    kms, counters = MemoryKms(), Counters()
    key = KmsRegistry([kms], counters).main_key("memory:a")
    world.main.loop.run(key.describe())
    kms.delete("a")
    with pytest.raises(KmsRefused):
        world.main.loop.run(key.describe())
    counts = counters.take()
    assert counts[(KMS_CALLS, ("memory", "describe", "ok"))] == 1
    assert counts[(KMS_CALLS, ("memory", "describe", "deleted"))] == 1
    assert sum(value for (name, _), value in counts.items() if name == KMS_SECONDS + ".bucket") == 2
    assert repr(key) == repr(kms.main_key(key.uri))


def test_the_way_of_a_lock_is_measured_to_each_process(world: World) -> None:
    """From its commit to the moment a process that knew the environment knows of the lock; once."""
    environment = world.environment()
    first, counters, now = world.main, Counters(), [0.0]
    epochs = Epochs(first.database, None, lambda: now[0], counters)
    epochs.check(environment.environment_id)
    assert counters.take() == {}, "to see it for the first time is no notice"
    locking.revoke(first, [environment], actor="customer")
    assert world.clock is not None
    world.clock.let_pass(0.6)
    now[0] += 5
    for _ in range(2):
        with pytest.raises(Exception, match="locked"):
            epochs.check(environment.environment_id)
    counts = counters.take()
    assert counts[(LOCK_NOTICE_SECONDS + ".sum", ())] == pytest.approx(0.6, abs=0.01)
    assert counts[(LOCK_NOTICE_SECONDS + ".bucket", ("0.75",))] == 1
    assert counters.take_latest(LOCK_NOTICE_SECONDS) == pytest.approx(0.6, abs=0.01)


def test_the_scarcest_budget_of_each_kind_is_told_and_no_account(world: World) -> None:
    """What is left of the KMS calls that a second allows; an account that is a tenant's own is not named."""
    budgets = [
        Left(scope="aws-kms:111122223333/eu-central-1", rate=1000, full_rate=1000, background=160, live=40),
        Left(scope="aws-kms:444455556666/eu-central-1", rate=250, full_rate=1000, background=3, live=40),
    ]
    reader = OverviewReader(world.main.database, broker_of(CLOSED_BROKER), world.main.settings, budgets=lambda: budgets)
    _, body = make_page(reader.read)("")
    samples = scraped(reader)
    reader.close()
    assert one(samples, "kms_budget_ratio", kms="aws-kms") == 0.25
    assert one(samples, "kms_budget_calls", kms="aws-kms", use="background") == 3
    assert one(samples, "kms_budget_calls", kms="aws-kms", use="live") == 40
    assert b"444455556666" not in body
