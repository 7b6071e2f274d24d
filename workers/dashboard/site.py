"""What the dashboard works with, built once."""

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
from workers.dashboard.live.counts import Counts, count
from workers.dashboard.live.live import Live
from workers.dashboard.live.overview_cache import Glance
from workers.dashboard.live.shared_reads import Readings
from workers.dashboard.live.stale_cache import Kept
from workers.events.sources import Sources
from workers.main_keys.inventory import MainKeyView, list_main_keys
from workers.monitoring.overview import Watch
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
        """How the audit names whoever did something here."""
        return f"dashboard:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything a page or an answer is made of."""

    services: Services
    users: Users
    sessions: Sessions
    attempts: Attempts
    sources: Sources
    glance: Glance
    live: Live
    counts: Kept[int, Counts]  # of an environment's keys
    inventory: Kept[None, list[MainKeyView]]
    pending: Pending
    readings: Readings[str, dict[str, Any]] = field(default_factory=Readings)  # of what pages show
    provider: Provider | None = None
    checking: threading.Semaphore = field(repr=False, default_factory=lambda: threading.Semaphore(CHECKED_AT_ONCE))
    form_key: bytes = field(repr=False, default_factory=lambda: secrets.token_bytes(32))

    @property
    def is_secure(self) -> bool:
        """Whether browsers come over TLS."""
        return self.services.settings.is_secure

    def close(self) -> None:
        """Look and read no more. The services are whoever's made them."""
        self.glance.close()
        self.counts.close()
        self.inventory.close()


COUNTS_SECONDS, INVENTORY_SECONDS = 120.0, 5.0
"""How old a count of an environment's keys, and the table of main keys, may be before they are read anew."""


def make_site(services: Services, broker: Broker, *, clock: Callable[[], float] = time.monotonic) -> Site:
    """The dashboard over these services. `close` it before them."""
    settings = services.settings
    watch = Watch(services.database, broker, settings, budgets=services.budgets_left)
    return Site(
        services=services,
        users=Users(settings.users_file),
        sessions=Sessions(idle=settings.session_idle_seconds, longest=settings.session_seconds, clock=clock),
        attempts=Attempts(clock),
        sources=Sources.of(settings),
        glance=Glance(watch, services.database, seconds=settings.dashboard_poll_seconds, clock=clock),
        live=Live(settings.dashboard_poll_seconds),
        counts=Kept(lambda environment: count(services, environment), seconds=COUNTS_SECONDS, clock=clock),
        inventory=Kept(lambda _: list_main_keys(services), seconds=INVENTORY_SECONDS, clock=clock),
        pending=Pending(clock),
        provider=Provider.of(settings) if settings.oidc_issuer is not None else None,
    )
