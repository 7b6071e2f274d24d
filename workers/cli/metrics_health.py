"""metrics, health serve, health check: for Prometheus, and for supervisors that restart what is dead."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.output import AsJson, Command, note, say
from workers.cli.session import opened

if TYPE_CHECKING:
    from workers.monitoring.overview import Overview
    from workers.monitoring.probe_server import Page, Probes
    from workers.runtime.single_flight import Recent

METRICS_PORT = 9464
"""Where OpenTelemetry's own exporters for Prometheus listen."""

HEALTH_PORT = 9465

Host = Annotated[str, typer.Option(help="Address to listen on. There is no sign-in: keep it inside.")]
WorkerName = Annotated[str | None, typer.Option("--worker", help="The worker that is asked after, by its name.")]


def metrics(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = METRICS_PORT,
) -> None:
    """Serve /metrics for Prometheus, with /livez and /readyz. One is enough: what it tells is the database's.

    No name of a tenant is in it.
    """
    from workers.monitoring.metrics import make_page
    from workers.monitoring.probe_server import ProbeAnswer

    with _looking() as (look, probes):
        page = make_page(look)

        def answer(headers: Mapping[str, str]) -> ProbeAnswer:
            content_type, body = page(headers.get("Accept", ""))
            return ProbeAnswer(status=200, content_type=content_type, body=body)

        _serve(host, port, probes.pages() | {"/metrics": answer}, "/metrics")


def health_serve(
    worker: WorkerName = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = HEALTH_PORT,
) -> None:
    """Serve /livez and /readyz on a port of their own; of a worker, where one is named."""
    with _looking(worker) as (_, probes):
        _serve(host, port, probes.pages(), "/livez and /readyz")


def health_check(worker: WorkerName = None, as_json: AsJson = False) -> None:
    """Ask once, as an exec probe does. Exit status 1 where something is wrong.

    Of a worker that is named: whether it makes progress. Else of the whole: broker, clock, a canary through each queue.
    """
    with _looking(worker, asks_once=True) as (_, probes):
        health = probes.progressing() if worker is None else probes.alive()
    say(
        {"ok": health.is_well, "reasons": list(health.reasons)},
        lambda out: out.print("\n".join(health.reasons) or "It makes progress."),
    )
    if not health.is_well:
        raise typer.Exit(1)


@contextmanager
def _looking(worker: str | None = None, *, asks_once: bool = False) -> Iterator[tuple[Recent[Overview], Probes]]:
    from workers.broker.queue_depths import broker_of
    from workers.monitoring.health import STARTING_SECONDS
    from workers.monitoring.overview_reader import OverviewReader
    from workers.monitoring.probe_server import Probes, shared_overview

    with opened() as services:
        settings = services.settings
        broker = broker_of(settings.broker_url.get_secret_value())
        reader = OverviewReader(services.database, broker, settings, budgets=services.budgets_left)
        look = shared_overview(reader.read)
        try:
            yield (
                look,
                Probes(services.database, look, settings, worker=worker, grace=0.0 if asks_once else STARTING_SECONDS),
            )
        finally:
            reader.close()


def _serve(host: str, port: int, pages: dict[str, Page], what: str) -> None:
    """Serve until told to stop."""
    from workers.monitoring.probe_server import Listener

    try:
        listener = Listener(host, port, pages)
    except OSError as error:
        note(f"{host}:{port} cannot be listened on: {error.strerror}. Give another --port.")
        raise typer.Exit(1) from None
    listener.start()
    note(f"Serving {what} on http://{host}:{listener.port}")
    try:
        _wait_for_a_signal()
    finally:
        listener.close()


def _wait_for_a_signal() -> None:
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        told.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


COMMANDS: dict[str, Command] = {"serve": health_serve, "check": health_check}
