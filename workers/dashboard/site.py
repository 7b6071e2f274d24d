"""The dashboard's own services, built once."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workers.broker.queue_depths import Broker
from workers.dashboard.auth.attempts import Attempts
from workers.dashboard.auth.pending import Pending
from workers.dashboard.auth.provider import Provider
from workers.dashboard.auth.sessions import Session, Sessions
from workers.dashboard.auth.users import Role, Users
from workers.dashboard.live.counts import KeyCounts, count
from workers.dashboard.live.live import Live
from workers.dashboard.live.overview_cache import OverviewCache
from workers.events.sources import Sources
from workers.main_keys.inventory import MainKeyView, list_main_keys
from workers.monitoring.overview_reader import OverviewReader
from workers.runtime.single_flight import FreshFlight, StaleWhileRevalidate
from workers.services import Services

CHECKED_AT_ONCE = 2
"""Passwords that are checked at once: each takes 32 MiB and a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks. A program has a token, and no session."""

    name: str
    role: Role
    session: Session | None

    @property
    def actor(self) -> str:
        """Return how the audit names the person who did something here."""
        return f"dashboard:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything a page or an answer is made of."""

    services: Services
    users: Users
    sessions: Sessions
    attempts: Attempts
    sources: Sources
    overview_cache: OverviewCache
    live: Live
    counts: StaleWhileRevalidate[int, KeyCounts]  # of an environment's keys
    inventory: StaleWhileRevalidate[None, list[MainKeyView]]
    pending: Pending
    page_reads: FreshFlight[str, dict[str, Any]] = field(default_factory=FreshFlight)  # of what pages show
    provider: Provider | None = None
    checking: threading.Semaphore = field(repr=False, default_factory=lambda: threading.Semaphore(CHECKED_AT_ONCE))
    form_key: bytes = field(repr=False, default_factory=lambda: secrets.token_bytes(32))

    @property
    def is_secure(self) -> bool:
        """Return True if browsers come over TLS."""
        return self.services.settings.is_secure

    def close(self) -> None:
        """Read no more. The services belong to their maker."""
        self.overview_cache.close()
        self.counts.close()
        self.inventory.close()


COUNTS_SECONDS, INVENTORY_SECONDS = 120.0, 5.0
"""How old a count of an environment's keys, and the table of main keys, may be before they are read anew."""


def make_site(services: Services, broker: Broker, *, clock: Callable[[], float] = time.monotonic) -> Site:
    """Make the dashboard over these services. `close` it before them."""
    settings = services.settings
    reader = OverviewReader(services.database, broker, settings, budgets=services.budgets_left)
    return Site(
        services=services,
        users=Users(settings.users_file),
        sessions=Sessions(idle=settings.session_idle_seconds, longest=settings.session_seconds, clock=clock),
        attempts=Attempts(clock),
        sources=Sources.of(settings),
        overview_cache=OverviewCache(reader, services.database, seconds=settings.dashboard_poll_seconds, clock=clock),
        live=Live(settings.dashboard_poll_seconds),
        counts=StaleWhileRevalidate(
            lambda environment: count(services, environment), seconds=COUNTS_SECONDS, clock=clock
        ),
        inventory=StaleWhileRevalidate(lambda _: list_main_keys(services), seconds=INVENTORY_SECONDS, clock=clock),
        pending=Pending(clock),
        provider=Provider.of(settings) if settings.oidc_issuer is not None else None,
    )
