"""A small HTTP listener for probes and scrapes: GET of a few fixed paths, nothing else. No tenant's name passes it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from workers.errors import DatabaseFailed
from workers.monitoring.health import STARTING_SECONDS, Health, judge_service, judge_worker
from workers.monitoring.overview import Overview
from workers.runtime.logs import log
from workers.runtime.settings import Settings
from workers.runtime.single_flight import Recent
from workers.store.database import Database
from workers.store.revisions import require_current

READ_SECONDS = 5.0
"""How long a client may take over its request."""

KEPT_SECONDS = 1.0
"""How old an overview may be that answers a probe or a scrape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """What a path says."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[Mapping[str, str]], ProbeAnswer]
"""From the request's headers to its answer."""


def shared_overview(read: Callable[[], Overview], *, clock: Callable[[], float] = time.monotonic) -> Recent[Overview]:
    """Read an overview at most once per second, for all who ask: many probes at once cost what one costs."""
    return Recent(read, seconds=KEPT_SECONDS, clock=clock)


class Probes:
    """`/livez` and `/readyz` of one process. `worker`: which worker it is; None: a process that only reads."""

    def __init__(
        self,
        database: Database,
        read: Callable[[], Overview],
        settings: Settings,
        *,
        worker: str | None,
        grace: float = STARTING_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`grace`: seconds in which a worker is taken to be starting."""
        self._database, self._read, self._settings, self._worker = database, read, settings, worker
        self._clock, self._until = clock, clock() + grace

    def alive(self) -> Health:
        """Judge whether a restart would mend something."""
        if self._worker is None or self._clock() < self._until:
            return Health()
        try:
            return judge_worker(self._read(), self._worker, canary_seconds=self._settings.canary_seconds)
        except DatabaseFailed:
            return Health()

    def ready(self) -> Health:
        """Judge whether it can do its work now: database, schema, broker."""
        try:
            require_current(self._database)
            broker = self._read().broker
        except Exception as error:  # noqa: BLE001 - a probe says what is wrong, whatever it is
            return Health(reasons=(str(error) or type(error).__name__,))
        return Health() if broker.answers else Health(reasons=(broker.why,))

    def progressing(self) -> Health:
        """Judge whether the whole system makes progress. Raises DatabaseFailed."""
        return judge_service(self._read(), canary_seconds=self._settings.canary_seconds)

    def pages(self) -> dict[str, Page]:
        """Return the pages by path."""
        return {"/livez": lambda _: _said(self.alive()), "/readyz": lambda _: _said(self.ready())}


def _said(health: Health) -> ProbeAnswer:
    body = json.dumps({"ok": health.is_well, "reasons": health.reasons}).encode() + b"\n"
    return ProbeAnswer(status=200 if health.is_well else 503, content_type="application/json", body=body)


class Listener:
    """Serves pages in threads of its own until it is closed."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        """Port 0 takes a free one; `port` says which. Raises OSError where it cannot be had."""
        self._server = _Server((host, port), _handler(pages))
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="keyrepack-listener", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(READ_SECONDS)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _handler(pages: Mapping[str, Page]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = READ_SECONDS
        server_version, sys_version = "keyrepack", ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self._answer(ProbeAnswer(status=404, content_type="text/plain", body=b"There is no such page.\n"))
                return
            try:
                answer = page(dict(self.headers))
            except Exception as error:  # noqa: BLE001 - the scraper learns that it failed; the process goes on
                log.warning("listener.failed", path=self.path, error=type(error).__name__)
                answer = ProbeAnswer(
                    status=500, content_type="text/plain", body=b"It could not be read; see the log.\n"
                )
            self._answer(answer)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, answer: ProbeAnswer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: a probe every few seconds is no event."""

    return Handler
