"""Traces from an event to the last batch: by links, with no context in a message; off, they are not there at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from schemas.events import Event
from schemas.states import RepackState
from tests.engine import World, usual_tree
from workers.errors import NotConfigured
from workers.events.handling import handle_event
from workers.events.receiving import take_event
from workers.events.sources import Sources
from workers.repack.lifecycle import walk_slice
from workers.runtime.tracing import OpenTelemetryTracer, Untraced, open_tracer
from workers.services import Services
from workers.store.repacks import list_repacks


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where spans go."""
    return InMemorySpanExporter()


@pytest.fixture
def traced(world: World, exporter: InMemorySpanExporter) -> Iterator[Services]:
    """A process that traces."""
    tracer = OpenTelemetryTracer(exporter)
    yield replace(world.process(), tracer=tracer)
    tracer.close()


def spans(services: Services, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """All that were made, oldest first."""
    services.tracer.close()
    return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


def test_the_last_batch_is_linked_to_the_event(world: World, traced: Services, exporter: InMemorySpanExporter) -> None:
    """Event, start, shards in their walks, batches in their shards; the start is found by the repack's id alone."""
    environment = world.environment()
    usual_tree(world, environment)
    data = {"version": 1, "environment": str(environment.environment_id), "main_key": "memory:b"}
    event = Event(id=str(uuid4()), source="/test", type="main_key.replaced", data=data)
    inbox_id = take_event(traced, event.to_bytes(), sources=Sources(None, allow_unsigned=True))
    assert inbox_id is not None
    handle_event(traced, inbox_id)
    with traced.database.read() as connection:
        (repack,) = list_repacks(connection)
    other = replace(world.process(), tracer=traced.tracer)
    while walk_slice(other, repack.id):
        pass
    assert world.look(repack).state == RepackState.FINISHED

    found = spans(traced, exporter)
    (handled,) = [span for span in found if span.name == "event.handle"]
    (started,) = [span for span in found if span.name == "repack.started"]
    walks = [span for span in found if span.name == "shard.walk"]
    commits = [span for span in found if span.name == "batch.commit"]
    assert started.context.trace_id == repack.repack_id.int
    assert [link.context.span_id for link in started.links] == [handled.context.span_id]
    assert walks
    assert len({walk.context.trace_id for walk in walks}) == len(walks), "no trace of a million spans"
    for walk in walks:
        assert walk.parent is None
    for span in (*walks, *commits):
        assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [
            (started.context.trace_id, started.context.span_id)
        ]
    ids = {walk.context.span_id for walk in walks}
    assert {commit.parent.span_id for commit in commits if commit.parent} <= ids
    assert len(commits) >= len(walks)


def test_a_span_says_that_it_failed_and_no_more(traced: Services, exporter: InMemorySpanExporter) -> None:
    """R10: an error's text may hold anything; its class is enough."""
    with pytest.raises(ValueError, match="hunter2"), traced.tracer.span("event.handle", inbox=1):
        raise ValueError("hunter2")
    (span,) = spans(traced, exporter)
    assert dict(span.attributes or {}) == {"keyrepack.inbox": 1, "error.type": "ValueError"}
    assert "hunter2" not in span.to_json()


def test_without_an_endpoint_there_are_none() -> None:
    """And OpenTelemetry need not be there: none of our own modules imports it."""
    assert isinstance(open_tracer(None), Untraced)
    program = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from workers.celery_app import tasks; from workers.cli import application, metrics_health;"
        "from workers.runtime.settings import Settings;"
        "from workers.compose import build_services; build_services(Settings(database_url='sqlite://')).close()"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=300, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_endpoint_without_the_library_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, with what to install; not at the first span."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(NotConfigured, match=r"keyrepack\[otel\]"):
        open_tracer("http://127.0.0.1:4318/v1/traces")
