"""Checks messages in a queue of work: each must be a wake-up of ours, which names a task of ours and ids, no more.

Anyone who reaches the broker can put anything there. What is none is refused before Celery looks at it, with a code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from schemas.errors import EventRejected

MAX_BYTES = 4096
"""A wake-up is a few hundred bytes; anything larger is not one of ours."""

MAX_ID = 2**63 - 1
"""What a row's id can be in the database."""

REMEDY = "Find out who sends it: only keyrepack itself has anything to say in its queues of work."


class WakeUpRefused(EventRejected):
    """A message in a queue of work that is no wake-up: it is kept among the rejected events."""

    def __init__(self, code: str, why: str, queue: str) -> None:
        super().__init__(code, f"In {queue}: {why}", REMEDY)


def require_wake_up(message: Any, *, queue: str, tasks: Mapping[str, int]) -> None:
    """Refuse a kombu message that is no wake-up; `tasks` says how many ids each takes. Raises WakeUpRefused.

    Codes: too_large, malformed_message, unknown_task, wrong_arguments.
    """
    body, headers = body_of(message), message.headers
    if len(body) > MAX_BYTES:
        raise WakeUpRefused("too_large", f"it has {len(body)} bytes; the limit is {MAX_BYTES}.", queue)
    if message.errors or message.content_type != "application/json" or not _is_a_call(headers):
        raise WakeUpRefused("malformed_message", "it is not a task's message in JSON.", queue)
    if headers["task"] not in tasks:
        raise WakeUpRefused("unknown_task", "it calls a task that this program has not.", queue)
    try:
        arguments, named, _ = json.loads(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise WakeUpRefused("malformed_message", "its body is not a task's.", queue) from error
    if named != {} or not _are_ids(arguments, tasks[headers["task"]]):
        raise WakeUpRefused("wrong_arguments", "it does not bring the ids that its task takes.", queue)


def body_of(message: Any) -> bytes:
    """Return a message's body as it came."""
    body = message.body
    return body if isinstance(body, bytes) else str(body or "").encode()


def _is_a_call(headers: Any) -> bool:
    """Protocol 2 of Celery, to be run at once: wake-ups are never put off (`eta`)."""
    return (
        isinstance(headers, dict)
        and isinstance(headers.get("task"), str)
        and isinstance(headers.get("id"), str)
        and headers.get("eta") is None
    )


def _are_ids(arguments: Any, count: int) -> bool:
    return (
        isinstance(arguments, list)
        and len(arguments) == count
        and all(type(one) is int and abs(one) <= MAX_ID for one in arguments)
    )
