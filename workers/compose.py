"""Builds everything from the settings, once a process, after the fork."""

from __future__ import annotations

import os
import socket
import threading
import time
from uuid import uuid4

from workers.aio import Loop
from workers.cache import PlaintextCache
from workers.chain import Chain
from workers.kms.aws import AwsKms
from workers.kms.managed import ManagedKms
from workers.kms.memory import MemoryKms
from workers.kms.port import KmsProvider
from workers.kms.registry import KmsRegistry
from workers.services import Services
from workers.settings import Settings
from workers.store.database import Database
from workers.store.keys import Pair
from workers.store.pages import pages_for
from workers.wake import Silence, Waker

_lock = threading.Lock()
_built: dict[int, Services] = {}


def build_services(
    settings: Settings, *, wake: Waker | None = None, providers: list[KmsProvider] | None = None
) -> Services:
    """A process's services. `close` them when done."""
    database = Database(settings.database_url.get_secret_value())
    kms = KmsRegistry(providers if providers is not None else _providers(settings))
    loop = Loop()
    cache: PlaintextCache[Pair] = PlaintextCache(ttl=settings.cache_ttl, size=settings.cache_size, clock=time.monotonic)
    return Services(
        settings=settings,
        database=database,
        pages=pages_for(database.dialect),
        kms=kms,
        loop=loop,
        cache=cache,
        chain=Chain(database, kms, loop, cache),
        wake=wake or Silence(),
        owner=f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}",
    )


def process_services(settings: Settings, wake: Waker) -> Services:
    """The services of this very process, built at first use: what a parent built before a fork is never touched."""
    with _lock:
        pid = os.getpid()
        if pid not in _built:
            # A parent's services stay in the dictionary: letting go of them here would close its connections.
            _built[pid] = build_services(settings, wake=wake)
        return _built[pid]


def _providers(settings: Settings) -> list[KmsProvider]:
    """The kinds of main key this installation serves: closed when not configured."""
    providers: list[KmsProvider] = [
        AwsKms(concurrency=settings.kms_concurrency, timeout_seconds=settings.kms_timeout_seconds)
    ]
    if settings.managed_key_file is not None:
        providers.append(ManagedKms(settings.managed_key_file))
    if settings.allow_memory_kms:
        providers.append(MemoryKms())
    return providers
