"""Asks the broker whether it takes a connection, and what it has set aside."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.exceptions import OperationalError

from producers import topology
from producers.transports import transport_options
from schemas.broker_address import read_broker_url

BROKER_SECONDS = 2.0
"""How long the broker may take before it is said to be away."""


def is_broker_up(url: str) -> bool:
    """Return True if the broker takes a connection now."""
    return count_dead_letters(url) is not None


def count_dead_letters(url: str) -> int | None:
    """Count the broker's dead letters: 0 where it keeps none by itself, None where it does not answer."""
    connect: Any = Connection  # kombu has no types
    options = transport_options(url) | {"socket_connect_timeout": BROKER_SECONDS, "max_retries": 0}
    connection = connect(**read_broker_url(url).kombu, connect_timeout=BROKER_SECONDS, transport_options=options)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        return topology.count_dead_letters(connection.default_channel)
    except (OperationalError, OSError, *connection.connection_errors):
        return None
    finally:
        connection.release()
