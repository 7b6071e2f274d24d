"""The parts of every stage's walk: a batch is prepared outside a transaction and written inside one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from schemas.ranges import Cursor
from workers.errors import KmsRefused, KmsUnreachable
from workers.runtime.phase_timer import PhaseTimer
from workers.services import Services
from workers.store.database import Connection
from workers.store.environments import Environment
from workers.store.repacks import Repack
from workers.store.shards import Shard, Tally

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A repack at work: what its walks work on."""

    services: Services
    repack: Repack
    environment: Environment
    timer: PhaseTimer = field(default_factory=PhaseTimer, compare=False)


def traced(name: str) -> Callable[[Callable[Concatenate[Run, Shard, P], T]], Callable[Concatenate[Run, Shard, P], T]]:
    """Trace work on a shard in a span that is linked to the start of its repack."""

    def around(work: Callable[Concatenate[Run, Shard, P], T]) -> Callable[Concatenate[Run, Shard, P], T]:
        @wraps(work)
        def within(run: Run, shard: Shard, /, *args: P.args, **kwargs: P.kwargs) -> T:
            facts: dict[str, str | int] = {"shard": shard.id, "stage": shard.stage.value, "level": shard.level}
            with run.services.tracer.span(name, about=run.repack.repack_id, **facts):
                return work(run, shard, *args, **kwargs)

        return within

    return around


class Batch(Protocol):
    """A prepared batch. Nothing of it is stored before `write`, and all of it or nothing after."""

    cursor: Cursor
    is_last: bool
    failure: KmsRefused | KmsUnreachable | None

    def write(self, connection: Connection) -> Tally:
        """Store it, in the transaction that also stores the checkpoint; may lower `cursor` and `is_last`."""

    def written(self) -> None:
        """Learn that the batch was committed: only now may its material be remembered."""


class Walk(Protocol):
    """One stage's way over one shard."""

    def prepare(self, cursor: Cursor) -> Batch:
        """Read, unwrap and wrap what comes after `cursor`; store nothing.

        Raises KmsRefused, KmsUnreachable where a main key that is needed cannot be used.
        """


@dataclass(slots=True, kw_only=True)
class EmptyBatch:
    """A batch without keys: the cursor moves, or the shard ends."""

    cursor: Cursor
    is_last: bool
    failure: KmsRefused | KmsUnreachable | None = None

    def write(self, connection: Connection) -> Tally:
        """Store nothing."""
        return Tally()

    def written(self) -> None:
        """Remember nothing."""
