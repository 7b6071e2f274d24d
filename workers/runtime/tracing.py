"""Traces by OpenTelemetry: off unless an endpoint is set, and then the library is not even imported.

A repack is no tree: its batches may be a million, over days and many processes. So its start is a trace of its own,
with ids that follow from the repack's; each walk over a shard is another, with its batches as children, and *links* to
that start. No message has to carry a context: a message is a wake-up with an id, and the id is enough (R3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from workers.errors import NotConfigured

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

CLOSE_SECONDS = 5
"""How long the last spans may take to be sent."""


class Tracer(Protocol):
    """Makes spans. Facts are ids and counts, never secrets or names (R10)."""

    def span(self, name: str, *, about: UUID | None = None, **facts: str | int) -> AbstractContextManager[object]:
        """Trace the block as a child of the span around it. `about`: link it to the start of that repack."""

    def begin(self, repack: UUID, name: str, **facts: str | int) -> None:
        """Trace the start of a repack, linked to the span around it; later spans link to it."""

    def close(self) -> None:
        """Send what waits."""


class Untraced:
    """Makes none."""

    def span(self, name: str, *, about: UUID | None = None, **facts: str | int) -> AbstractContextManager[object]:
        """See Tracer.span."""
        return nullcontext()

    def begin(self, repack: UUID, name: str, **facts: str | int) -> None:
        """See Tracer.begin."""

    def close(self) -> None:
        """See Tracer.close."""


def open_tracer(endpoint: str | None) -> Tracer:
    """Open a tracer that sends to an OTLP endpoint over HTTP, or one that does nothing without an endpoint. Raises
    NotConfigured if the extra is missing.
    """
    if endpoint is None:
        return Untraced()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise NotConfigured(
            "Traces cannot be sent.",
            "KEYREPACK_TRACES_ENDPOINT is set, and OpenTelemetry is not installed.",
            "Install keyrepack[otel], or unset it.",
        ) from error
    return OpenTelemetryTracer(OTLPSpanExporter(endpoint=endpoint))


class OpenTelemetryTracer:
    """Makes them, and gives them to an exporter in a thread of its own."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "keyrepack"}), id_generator=_ids(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("keyrepack")

    @contextmanager
    def span(self, name: str, *, about: UUID | None = None, **facts: str | int) -> Iterator[object]:
        """See Tracer.span."""
        links = [] if about is None else [_start_of(about)]
        facts |= {} if about is None else {"repack": str(about)}
        # R10: an error's text may hold anything; its class says enough.
        with self._tracer.start_as_current_span(
            name, links=_links(links), attributes=_named(facts), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    def begin(self, repack: UUID, name: str, **facts: str | int) -> None:
        """See Tracer.begin."""
        from opentelemetry.context import Context
        from opentelemetry.trace import get_current_span

        around = get_current_span().get_span_context()
        links = _links([around] if around.is_valid else [])
        token = _given.set(repack)
        try:
            attributes = _named({"repack": str(repack), **facts})
            self._tracer.start_span(name, context=Context(), links=links, attributes=attributes).end()
        finally:
            _given.reset(token)

    def close(self) -> None:
        """See Tracer.close."""
        self._provider.force_flush(CLOSE_SECONDS * 1000)
        self._provider.shutdown()


_given: ContextVar[UUID | None] = ContextVar("keyrepack_trace", default=None)
"""The repack whose start is a span just now."""


def _trace_id(repack: UUID) -> int:
    return repack.int


def _span_id(repack: UUID) -> int:
    return (repack.int & 0xFFFF_FFFF_FFFF_FFFF) or 1


def _ids() -> Any:
    """Random ids, but for the start of a repack."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            given = _given.get()
            return super().generate_trace_id() if given is None else _trace_id(given)

        def generate_span_id(self) -> int:
            given = _given.get()
            return super().generate_span_id() if given is None else _span_id(given)

    return Ids()


def _start_of(repack: UUID) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(trace_id=_trace_id(repack), span_id=_span_id(repack), is_remote=True, trace_flags=flags)


def _links(contexts: Sequence[SpanContext]) -> list[Any]:
    from opentelemetry.trace import Link

    return [Link(context) for context in contexts]


def _named(facts: dict[str, str | int]) -> dict[str, str | int]:
    return {f"keyrepack.{name}": value for name, value in facts.items()}
