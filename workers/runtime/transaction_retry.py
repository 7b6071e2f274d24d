"""Tries a transaction again that the database gave up: at once, as a whole and from its beginning.

Put `again_after_conflict` on the function that reads, decides and writes: nothing of what it did is there when its
transaction was given up, so it may be called anew. It must have no other effect before its transaction commits.
"""

from __future__ import annotations

from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from workers.errors import TransactionConflict
from workers.runtime.logs import log

TRIES = 5
"""How often a transaction is tried: two that meet again and again part at the second or third, by their jitter."""

LONGEST_SECONDS = 20.0
"""After so long no other try begins: below a lease, and a SQLite writer has waited longer by then on its own."""

FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0
"""Seconds between tries, at most: drawn at random below a bound that doubles, so that the same two part."""


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.info("transaction.tried_again", attempt=state.attempt_number, why=getattr(error, "why", ""))


again_after_conflict = retry(
    retry=retry_if_exception_type(TransactionConflict),
    stop=stop_after_attempt(TRIES) | stop_after_delay(LONGEST_SECONDS),
    wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
    before_sleep=_tell,
    reraise=True,
)
"""Calls a function again while it raises TransactionConflict; the last one is raised."""
