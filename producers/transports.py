"""Options of each broker's transport: nothing waits for ever, and nothing is taken for sent that was not.

kombu's options, by the scheme of the broker's URL. Its transports ignore an unknown name in silence: a test holds each
of these against the installed kombu.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["redis", "rabbitmq", "sqs", "other"]

PUBLISH_TIMEOUT = 5.0
"""Seconds to wait for a broker that is to take a message; kombu's and the clients' own default is for ever."""

ANSWER_TIMEOUT = 10.0
"""Seconds to wait for any other answer."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_KINDS: dict[str, Kind] = {
    "redis": "redis",
    "rediss": "redis",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "pyamqp": "rabbitmq",
    "sqs": "sqs",
}

RETRIES: dict[str, Any] = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}
"""How kombu's own connection tries again, over any transport."""


def kind_of(url: str) -> Kind:
    """Return which broker a URL names; "other" may work through kombu, and nothing is promised."""
    return _KINDS.get(urlsplit(url).scheme.lower(), "other")


def transport_options(url: str) -> dict[str, Any]:
    """Return the options of every connection to the broker."""
    match kind_of(url):
        case "redis":
            own: dict[str, Any] = {
                "socket_timeout": ANSWER_TIMEOUT,
                "socket_connect_timeout": PUBLISH_TIMEOUT,
                "socket_keepalive": True,
                "retry_on_timeout": True,
            }
        case "rabbitmq":
            own = {"confirm_publish": True, "read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT}
        case "sqs":
            own = {
                "client-config": {"connect_timeout": PUBLISH_TIMEOUT, "read_timeout": ANSWER_TIMEOUT},
                "is_secure": urlsplit(url).hostname not in LOOPBACK,  # there an emulator answers, without TLS
            }
        case _:
            own = {}
    return RETRIES | own


def publisher_options(url: str) -> dict[str, Any]:
    """Return the options of a publisher that waits for the answer: a broker that never answers is reported within
    seconds.
    """
    match kind_of(url):
        case "redis":
            # Each retry waits as long again, and the one who publishes waits with it.
            own: dict[str, Any] = {"socket_timeout": PUBLISH_TIMEOUT, "retry_on_timeout": False}
        case "rabbitmq":
            own = {"read_timeout": PUBLISH_TIMEOUT, "write_timeout": PUBLISH_TIMEOUT}
        case _:
            own = {}
    return transport_options(url) | own | {"max_retries": 1}


def consumer_options(url: str, *, visibility_timeout: int) -> dict[str, Any]:
    """Return the options of a worker, which takes messages as well."""
    match kind_of(url):
        case "redis":
            own: dict[str, Any] = {
                "visibility_timeout": visibility_timeout,  # slices are far shorter, so nothing runs twice at once
                "unacked_restore_interval": 1,  # look for the unacknowledged of dead workers every second …
                "unacked_restore_throttle": 1,  # … by default it took up to 100 s more than the timeout
                "queue_order_strategy": "priority",  # Redis serves the urgent queue first
            }
        case "sqs":
            own = {
                "visibility_timeout": visibility_timeout,
                "wait_time_seconds": 1,  # a worker asks one queue after the other, and waits so long at an empty one
                "polling_interval": 0,
            }
        case _:
            own = {}
    return transport_options(url) | own
