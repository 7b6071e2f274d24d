"""The services of one process, built once by `compose` and handed down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.broker.waker import Waker
from workers.crypto.epochs import Epochs
from workers.crypto.key_opener import KeyOpener
from workers.crypto.plaintext_cache import PlaintextCache
from workers.crypto.rewrap import RandomBytes
from workers.kms.rate_limit.budget import Left
from workers.kms.registry import KmsRegistry
from workers.runtime.counters import Counters
from workers.runtime.event_loop import LoopThread
from workers.runtime.settings import Settings
from workers.runtime.tracing import Tracer, Untraced
from workers.store.data_key_pages import Pages
from workers.store.database import Database
from workers.store.keys import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything with a connection, a clock or a source of randomness."""

    settings: Settings
    database: Database
    pages: Pages
    kms: KmsRegistry
    loop: LoopThread
    cache: PlaintextCache[Pair]
    epochs: Epochs
    key_opener: KeyOpener
    wake: Waker
    owner: str
    counters: Counters = field(default_factory=Counters)
    tracer: Tracer = field(default_factory=Untraced)
    clock: Callable[[], float] = time.monotonic
    random: RandomBytes = field(default=os.urandom, repr=False)

    def budgets_left(self) -> list[Left]:
        """Return what is left of the budgets of KMS calls, by account and region."""
        return self.loop.run(self.kms.budget_left())

    def close(self) -> None:
        """Give connections back and drop plaintext."""
        self.epochs.close()
        self.cache.clear()
        self.loop.run(self.kms.close(), timeout=10)
        self.loop.close()
        self.database.close()
        self.tracer.close()
