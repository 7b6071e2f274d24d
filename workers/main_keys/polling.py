"""Watches the main keys in use: what their KMS says of each becomes a record, and the record has its effects.

A poll is due by the record's own time, so a lost message, a second beat or a crash changes nothing (R3). What follows:

- another generation: a shallow repack is started here, not asked for by a message: the record is what says that it is
  due, and a message could only be lost, doubled or forged. `main_key.rotation_seen` is recorded with it (R11);
- a refusal: `locking` asks for itself, and restricts; usable again: it unlocks;
- no answer: since when, and nothing else. Not a revocation (R8).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from schemas.errors import KeyrepackError
from schemas.states import LockCause, Mode
from workers.errors import Cause, KmsBudgetSpent, KmsRefused, KmsUnreachable, NotConfigured
from workers.locks.restriction import restrict, unlock_if_restricted
from workers.main_keys.scanner import PollResult, poll
from workers.repack.lifecycle import start_repack
from workers.repack.starting import Request
from workers.runtime.failpoints import Point, reach
from workers.runtime.logs import log
from workers.services import Services
from workers.store import main_keys
from workers.store.database import Connection, InTransaction
from workers.store.environments import Environment, TopVersion
from workers.store.outbox import record_event
from workers.store.repacks import Repack

T = TypeVar("T")

ACTOR = "poller"

WRITTEN_AT_ONCE = 100
"""Sights written in one transaction; a refusal is written at once."""

CLAIMED_AT_ONCE = 100
PAGE = 500
"""Environments of one main key that are read at a time."""

PER_ENDPOINT = 4
"""One call in so many may be with one endpoint: a silent one leaves the others most of the calls."""

DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """What a pass saw: keys that can be used, that are refused, that gave no answer, and that were put off."""

    usable: int = 0
    refused: int = 0
    unanswered: int = 0
    put_off: int = 0


def poll_main_keys(services: Services, *, most: int | None = None) -> Polled:
    """Look at the main keys that are due: at most `most`, else as many as the budget has calls until the next tick.

    A pass claims what it polls, so passes of several processes share one budget.
    """
    settings = services.settings
    while True:
        with services.database.write() as connection:
            if main_keys.register(connection, interval=settings.poll_interval) < main_keys.REGISTERED_AT_ONCE:
                break
    if most is None:
        most = math.ceil(settings.poll_calls_per_second * settings.poll_tick)
    polled = services.loop.run(_poll(services, most))
    log.debug("poll.finished", usable=polled.usable, refused=polled.refused, unanswered=polled.unanswered)
    return polled


def poll_now(services: Services, uri: str, *, in_transaction: InTransaction) -> PollResult | None:
    """Look at one main key at once. None where it is not in use.

    `in_transaction` runs in the transaction that marks it as due: should this process die, the next pass polls it.
    """
    with services.database.write() as connection:
        in_transaction(connection)
        if not main_keys.mark_due(connection, uri):
            return None
    seen = services.loop.run(poll_one(services, uri))
    record_results(services, [seen])
    return seen


async def poll_one(services: Services, uri: str) -> PollResult:
    """Ask a main key's KMS for its state now. A kind of key that this process does not serve is no word of its KMS."""
    try:
        described = await services.kms.main_key(uri).describe()
    except KmsRefused as error:
        is_word = error.cause != Cause.UNSUPPORTED
        return PollResult(key=uri, cause=error.cause.value, detail=error.why, answered=is_word)
    except KmsBudgetSpent as error:
        return PollResult(key=uri, cause=error.cause.value, detail=error.why, answered=False, asked=False)
    except KmsUnreachable as error:
        return PollResult(key=uri, cause=error.cause.value, detail=error.why, answered=False)
    except NotConfigured as error:
        return PollResult(key=uri, cause=Cause.UNSUPPORTED.value, detail=error.why, answered=False)
    return PollResult(key=uri, generation=described.generation)


def record_results(services: Services, sights: list[PollResult]) -> None:
    """Record what was seen, and see to what follows from it."""
    reach(Point.POLL_LOOKED)
    usual, before = services.settings.poll_interval, {}
    with services.database.write() as connection:
        main_keys.put_off(connection, [seen.key for seen in sights if not seen.asked])
        for seen in sights:
            if seen.asked:
                before[seen.key] = main_keys.record_poll(
                    connection, seen.key, generation=seen.generation, cause=seen.cause, detail=seen.detail,
                    answered=seen.answered, usual=usual,
                )  # fmt: skip
    reach(Point.POLL_RECORDED)
    for seen in sights:
        known = before.get(seen.key)
        if known is not None and seen.answered:
            _follow(services, seen, known)


async def _poll(services: Services, most: int) -> Polled:
    settings = services.settings
    sights = poll(
        _due(services, most),
        partial(poll_one, services),
        rate=settings.poll_calls_per_second,
        concurrency=settings.kms_concurrency,
        per_endpoint=max(1, settings.kms_concurrency // PER_ENDPOINT),
    )
    counts = dict.fromkeys(("usable", "refused", "unanswered", "put_off"), 0)
    waiting: list[PollResult] = []
    async with aclosing(sights):
        async for seen in sights:
            counts[_kind(seen)] += 1
            waiting.append(seen)
            if len(waiting) >= WRITTEN_AT_ONCE or _kind(seen) == "refused":
                await asyncio.to_thread(record_results, services, waiting)
                waiting = []
    if waiting:
        await asyncio.to_thread(record_results, services, waiting)
    return Polled(**counts)


async def _due(services: Services, most: int) -> AsyncIterator[str]:
    """Yield the main keys that are due, claimed a few at a time."""

    def claim(limit: int) -> list[str]:
        with services.database.write() as connection:
            return main_keys.claim_due(connection, limit=limit)

    while most > 0 and (uris := await asyncio.to_thread(claim, min(most, CLAIMED_AT_ONCE))):
        reach(Point.POLL_CLAIMED)
        most -= len(uris)
        for uri in uris:
            yield uri


def _kind(seen: PollResult) -> str:
    if not seen.asked:
        return "put_off"
    if not seen.answered:
        return "unanswered"
    return "refused" if seen.cause else "usable"


def _follow(services: Services, seen: PollResult, before: main_keys.MainKeyRecord) -> None:
    """Apply to every environment of the key what follows; one that fails is logged, and is tried at the next poll."""
    if seen.cause is not None:
        locks = None if seen.cause != before.cause else ()
        for environment in _users(services, seen.key, locks):
            _attempt(environment, _restrict, services, environment, seen)
        return
    for environment in _users(services, seen.key, (LockCause.RESTRICTED, LockCause.LOST)):
        _attempt(environment, unlock_if_restricted, services, environment)
    for environment, top in _left_behind(services, seen):
        _attempt(environment, _start_following, services, environment, top, seen)


def _attempt(environment: Environment, effect: Callable[..., object], *arguments: object) -> None:
    try:
        effect(*arguments)
    except KeyrepackError as error:
        log.warning("watch.left", environment=str(environment.environment_id), code=error.code, why=str(error))


def _restrict(services: Services, environment: Environment, seen: PollResult) -> None:
    assert seen.cause is not None
    restrict(services, environment, cause=Cause(seen.cause), detail=seen.detail)


def _start_following(services: Services, environment: Environment, top: TopVersion, seen: PollResult) -> None:
    """Move an environment's roots to the generation seen. A conflict with another repack ends with that."""

    def record_rotation(connection: Connection, repack: Repack) -> None:
        if seen.generation is None:
            return  # the timer's time: no rotation was seen
        record_event(
            connection,
            "main_key.rotation_seen",
            actor=ACTOR,
            environment_id=environment.environment_id,
            repack_id=repack.repack_id,
            facts={"main_key": seen.key, "from_generation": top.generation, "to_generation": seen.generation},
        )

    request = Request(environment=environment, target=None, mode=Mode.SHALLOW, actor=ACTOR)
    start_repack(services, request, in_transaction=record_rotation)


def _users(services: Services, uri: str, locks: tuple[str, ...] | None) -> Iterator[Environment]:
    def page(connection: Connection, after: int) -> list[Environment]:
        return main_keys.users(connection, uri, locks=locks, after=after, limit=PAGE)

    return _paged(services, page, lambda environment: environment.id)


def _left_behind(services: Services, seen: PollResult) -> Iterator[tuple[Environment, TopVersion]]:
    hidden_before = services.database.now() - services.settings.hidden_generation_days * DAY

    def page(connection: Connection, after: int) -> list[tuple[Environment, TopVersion]]:
        return main_keys.left_behind(
            connection, seen.key, generation=seen.generation, hidden_before=hidden_before, after=after, limit=PAGE
        )

    return _paged(services, page, lambda found: found[0].id)


def _paged(services: Services, page: Callable[[Connection, int], list[T]], row_of: Callable[[T], int]) -> Iterator[T]:
    """Yield one page after the other, each read in a transaction of its own: what follows may take its time."""
    after = 0
    while True:
        with services.database.read() as connection:
            found = page(connection, after)
        yield from found
        if len(found) < PAGE:
            return
        after = row_of(found[-1])
