"""Builds everything from the settings, once a process, after the fork."""

from __future__ import annotations

import os
import socket
import threading
import time
from functools import partial
from uuid import uuid4

from redis import Redis

from producers.transports import kind_of
from schemas.broker_address import read_broker_url
from workers.broker.waker import Silence, Waker
from workers.crypto.epochs import Bell, Epochs, QuietBell, RedisBell
from workers.crypto.key_opener import Chain
from workers.crypto.plaintext_cache import PlaintextCache
from workers.kms.aws.access import read_access
from workers.kms.aws.main_key import AwsKms
from workers.kms.local.managed import ManagedKms
from workers.kms.local.memory import MemoryKms
from workers.kms.local.uploaded import UploadedKms
from workers.kms.openbao.client import OpenBaoClient
from workers.kms.openbao.main_key import OpenBaoKms
from workers.kms.port import KmsProvider
from workers.kms.rate_limit.budget import Budget, Meter, Terms
from workers.kms.rate_limit.shared_budget import make_budget
from workers.kms.registry import KmsRegistry
from workers.runtime.counters import Counters
from workers.runtime.event_loop import Loop
from workers.runtime.failpoints import Failpoint, arm
from workers.runtime.settings import Settings
from workers.runtime.tracing import open_tracer
from workers.services import Services
from workers.store.data_key_pages import pages_for
from workers.store.database import Database
from workers.store.keys import Pair
from workers.store.uploads import load_sealed

_lock = threading.Lock()
_built: dict[int, Services] = {}


def build_services(
    settings: Settings,
    *,
    wake: Waker | None = None,
    bell: Bell | None = None,
    providers: list[KmsProvider] | None = None,
) -> Services:
    """A process's services. `close` them when done. Without a `bell` no thread watches for locks: readers ask."""
    arm_failpoints(settings)
    database = Database(settings.database_url.get_secret_value())
    counters = Counters()
    meter = Meter(budget=_kms_budget(settings), patience=settings.kms_patience)
    chosen = providers if providers is not None else _providers(settings, database, meter)
    kms = KmsRegistry(chosen, counters, meter=meter)
    loop = Loop()
    cache: PlaintextCache[Pair] = PlaintextCache(ttl=settings.cache_ttl, size=settings.cache_size, clock=time.monotonic)
    epochs = Epochs(database, bell, time.monotonic, counters)
    epochs.keep_honest(cache)
    return Services(
        settings=settings,
        database=database,
        pages=pages_for(database.dialect),
        kms=kms,
        loop=loop,
        cache=cache,
        epochs=epochs,
        chain=Chain(database, kms, loop, cache, epochs),
        wake=wake or Silence(),
        owner=process_name(),
        counters=counters,
        tracer=open_tracer(settings.traces_endpoint),
    )


def arm_failpoints(settings: Settings) -> None:
    """Arm the failpoint that the settings name; they refuse it outside tests."""
    if settings.failpoint is not None:
        arm(Failpoint.parse(settings.failpoint, marker=settings.failpoint_marker))


def process_name() -> str:
    """Who this process is: as an owner of leases, and among the workers."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


def process_services(settings: Settings, wake: Waker) -> Services:
    """The services of this very process, built at first use: what a parent built before a fork is never touched."""
    with _lock:
        pid = os.getpid()
        if pid not in _built:
            # A parent's services stay in the dictionary: letting go of them here would close its connections.
            _built[pid] = build_services(settings, wake=wake, bell=broker_bell(settings))
        return _built[pid]


def broker_bell(settings: Settings) -> Bell:
    """The bell that the configured broker offers: Redis' pub/sub, or none but the database's tick."""
    url = settings.broker_url.get_secret_value()
    if kind_of(url) != "redis":
        return QuietBell()
    address = read_broker_url(url)
    return RedisBell(Redis.from_url(address.url, **address.tls, socket_timeout=5, socket_connect_timeout=2))


def _kms_budget(settings: Settings) -> Budget:
    """Counted in the Redis that is named, else in the broker, else by each process for its part."""
    terms = Terms(rate=settings.kms_calls_per_second, burst=settings.kms_burst, live_share=settings.kms_live_share)
    url = (settings.kms_budget_url or settings.broker_url).get_secret_value()
    address = read_broker_url(url) if kind_of(url) == "redis" else None
    return make_budget(
        address.url if address else None, terms, processes=settings.kms_processes, tls=address.tls if address else {}
    )


def _providers(settings: Settings, database: Database, meter: Meter) -> list[KmsProvider]:
    """The kinds of main key this installation serves: closed when not configured."""
    providers: list[KmsProvider] = [
        AwsKms(
            concurrency=settings.kms_concurrency,
            timeout_seconds=settings.kms_timeout_seconds,
            access=None if settings.aws_access_file is None else read_access(settings.aws_access_file),
            meter=meter,
        )
    ]
    if settings.managed_key_file is not None:
        managed = ManagedKms(settings.managed_key_file)
        providers += [managed, UploadedKms(managed, partial(load_sealed, database))]
    if settings.openbao_address is not None:
        providers.append(OpenBaoKms(_openbao_client(settings, settings.openbao_address), meter=meter))
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
