"""Builds everything from the settings, once a process, after the fork."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from uuid import uuid4

from redis import Redis

from producers.transports import kind_of
from schemas.broker_address import read_broker_url
from workers.broker.lock_notifier import LocalNotifier, LockNotifier, RedisNotifier
from workers.broker.waker import NullWaker, Waker
from workers.crypto.epochs import Epochs
from workers.crypto.key_opener import KeyOpener
from workers.crypto.plaintext_cache import PlaintextCache
from workers.crypto.rewrap import RandomBytes
from workers.kms.aws.access import read_access
from workers.kms.aws.main_key import AwsKms
from workers.kms.local.managed import ManagedKms
from workers.kms.local.memory import MemoryKms
from workers.kms.local.uploaded import UploadedKms
from workers.kms.openbao.client import OpenBaoClient
from workers.kms.openbao.main_key import OpenBaoKms
from workers.kms.port import KmsProvider
from workers.kms.rate_limit.budget import Budget, RateLimiter, Terms
from workers.kms.rate_limit.shared_budget import make_budget
from workers.kms.registry import KmsRegistry
from workers.runtime.counters import Counters
from workers.runtime.event_loop import LoopThread
from workers.runtime.failpoints import Failpoint, arm
from workers.runtime.settings import Settings
from workers.runtime.tracing import open_tracer
from workers.services import Services
from workers.store.data_key_pages import pages_for
from workers.store.database import Database
from workers.store.keys import Pair
from workers.store.uploads import load_sealed


def build_services(
    settings: Settings,
    *,
    wake: Waker | None = None,
    notifier: LockNotifier | None = None,
    providers: list[KmsProvider] | None = None,
    database: Database | None = None,
    clock: Callable[[], float] = time.monotonic,
    cache_clock: Callable[[], float] | None = None,
    random: RandomBytes = os.urandom,
    owner: str | None = None,
) -> Services:
    """Build a process's services; `close` them when done.

    Without a `notifier` no thread watches for locks: readers ask. The other arguments replace what the settings name or
    what a machine has; `cache_clock` is `clock` where it is not given.
    """
    arm_failpoints(settings)
    database = database or Database(settings.database_url.get_secret_value())
    counters = Counters()
    kms, loop = _registry(settings, database, counters, providers), LoopThread()
    cache_clock = cache_clock or clock
    cache: PlaintextCache[Pair] = PlaintextCache(ttl=settings.cache_ttl, size=settings.cache_size, clock=cache_clock)
    epochs = Epochs(database, notifier, cache_clock, counters)
    epochs.register_cache(cache)
    return Services(
        settings=settings,
        database=database,
        pages=pages_for(database.dialect),
        kms=kms,
        loop=loop,
        cache=cache,
        epochs=epochs,
        key_opener=KeyOpener(database, kms, loop, cache, epochs),
        wake=wake or NullWaker(),
        owner=owner or process_name(),
        counters=counters,
        tracer=open_tracer(settings.traces_endpoint),
        clock=clock,
        random=random,
    )


def _registry(
    settings: Settings, database: Database, counters: Counters, providers: list[KmsProvider] | None
) -> KmsRegistry:
    rate_limiter = RateLimiter(budget=_kms_budget(settings), patience=settings.kms_patience)
    chosen = providers if providers is not None else _providers(settings, database, rate_limiter)
    return KmsRegistry(chosen, counters, rate_limiter=rate_limiter)


def arm_failpoints(settings: Settings) -> None:
    """Arm the failpoint that the settings name; they refuse it outside tests."""
    if settings.failpoint is not None:
        arm(Failpoint.parse(settings.failpoint, marker=settings.failpoint_marker))


def process_name() -> str:
    """Make a name for this process: as an owner of leases, and among the workers."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


def broker_notifier(settings: Settings) -> LockNotifier:
    """Make the notifier that the configured broker offers: Redis' pub/sub, or none but the database's tick."""
    url = settings.broker_url.get_secret_value()
    if kind_of(url) != "redis":
        return LocalNotifier()
    address = read_broker_url(url)
    return RedisNotifier(Redis.from_url(address.url, **address.tls, socket_timeout=5, socket_connect_timeout=2))


def _kms_budget(settings: Settings) -> Budget:
    """Make the budget of KMS calls: counted in the Redis that is named, else in the broker, else by each process."""
    terms = Terms(rate=settings.kms_calls_per_second, burst=settings.kms_burst, live_share=settings.kms_live_share)
    url = (settings.kms_budget_url or settings.broker_url).get_secret_value()
    address = read_broker_url(url) if kind_of(url) == "redis" else None
    return make_budget(
        address.url if address else None, terms, processes=settings.kms_processes, tls=address.tls if address else {}
    )


def _providers(settings: Settings, database: Database, rate_limiter: RateLimiter) -> list[KmsProvider]:
    """Make the kinds of main key that this installation serves: closed if not configured."""
    providers: list[KmsProvider] = [
        AwsKms(
            concurrency=settings.kms_concurrency,
            timeout_seconds=settings.kms_timeout_seconds,
            access=None if settings.aws_access_file is None else read_access(settings.aws_access_file),
            rate_limiter=rate_limiter,
        )
    ]
    if settings.managed_key_file is not None:
        managed = ManagedKms(settings.managed_key_file)
        providers += [managed, UploadedKms(managed, partial(load_sealed, database))]
    if settings.openbao_address is not None:
        providers.append(OpenBaoKms(_openbao_client(settings, settings.openbao_address), rate_limiter=rate_limiter))
    if settings.allow_memory_kms:
        providers.append(MemoryKms())
    return providers


def _openbao_client(settings: Settings, address: str) -> OpenBaoClient:
    return OpenBaoClient(
        address=address,
        token_file=settings.openbao_token_file,
        namespace=settings.openbao_namespace,
        concurrency=settings.kms_concurrency,
        timeout_seconds=settings.kms_timeout_seconds,
    )
