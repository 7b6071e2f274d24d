"""Runs the dashboard: `keyrepack dashboard`."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from workers.broker.queue_depths import broker_of
from workers.dashboard.application import make_application
from workers.dashboard.site import make_site
from workers.errors import NotConfigured
from workers.runtime.logs import log
from workers.runtime.settings import Settings
from workers.services import Services

KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 2
"""How long an open stream may hold a stop up."""


def require_private(settings: Settings) -> None:
    """Raise NotConfigured for a dashboard that others could listen in on: passwords travel to it."""
    if settings.listens_openly and not settings.is_secure:
        raise NotConfigured(
            "The dashboard was not started.",
            f"On {settings.dashboard_host} other machines reach it, and KEYREPACK_DASHBOARD_URL is not https.",
            "Put TLS in front of it and set KEYREPACK_DASHBOARD_URL to its https address, or listen on 127.0.0.1.",
        )


def listen(settings: Settings) -> socket.socket:
    """Open the socket it will answer on. Raises NotConfigured if it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.dashboard_host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.dashboard_host, settings.dashboard_port))
    except OSError as error:
        found.close()
        raise NotConfigured(
            "The dashboard was not started.",
            f"{settings.dashboard_host}:{settings.dashboard_port} cannot be had: {error.strerror}.",
            "Set KEYREPACK_DASHBOARD_PORT to a free port.",
        ) from error
    return found


def address(settings: Settings, listening: socket.socket) -> str:
    """Return the address at which a browser finds it."""
    if settings.dashboard_url is not None:
        return settings.dashboard_url
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(services: Services, listening: socket.socket, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Answer until SIGTERM or Ctrl-C."""
    site = make_site(services, broker_of(services.settings.broker_url.get_secret_value()))
    try:
        config = uvicorn.Config(
            make_application(site),
            log_config=None,  # ours
            access_log=False,  # addresses of pages hold names; who did what is in the audit
            server_header=False,
            proxy_headers=False,  # no client is believed to be a proxy: sign-in limits go by the address that connected
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=32 * 1024,
            lifespan="on",
        )
        log.info("dashboard.started", address=address(services.settings, listening))
        on_ready()
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        site.close()
        listening.close()
