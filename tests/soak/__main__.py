"""`python -m tests.soak --minutes 10`: repacks in ten environments, readers, writers, and all that goes wrong."""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from schemas.errors import KeyrepackError
from schemas.states import RUNNING
from tests.soak.customers import Customers
from tests.soak.havoc import Havoc
from tests.soak.installation import BEAT, WORKERS, Installation, running_installation, temporary_folder
from tests.soak.judgement import Summary, judge
from workers.runtime.logs import configure_logs
from workers.runtime.settings import Settings
from workers.store import inbox
from workers.store.environments import get_environment
from workers.store.models import outbox, repacks, shards

ENVIRONMENTS, DATA_KEYS = 10, 6000
READERS, WRITERS = 2, 1
LOOK_SECONDS = 0.25
END_SECONDS = 150.0
"""How long what is open may take to end once nothing goes wrong any more."""

console = Console(stderr=True, width=140)


class Watch:
    """The longest time in which a repack ran and no key was seen."""

    def __init__(self, installation: Installation) -> None:
        self.longest, self.when = 0.0, (0.0, 0.0)
        self._installation, self._seen, self._since = installation, -1, time.time()

    def look(self) -> None:
        """Once; nothing is known while the database is away, and the time goes on."""
        try:
            with self._installation.services.database.read() as connection:
                running = connection.execute(
                    select(func.count()).select_from(repacks).where(repacks.c.state.in_(RUNNING))
                ).scalar_one()
                seen = connection.execute(
                    select(func.sum(shards.c.seen + shards.c.shredded + shards.c.minted))
                ).scalar()
        except KeyrepackError:
            return
        now = time.time()
        if not running or seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since > self.longest:
            self.longest, self.when = now - self._since, (self._since, now)


def main() -> int:
    """Soak, judge, and say so: a table, and one line of JSON last on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long things go wrong (10)")
    parser.add_argument("--seed", type=int, default=None, help="of all chance; a fresh one is printed")
    parser.add_argument("--data-keys", type=int, default=DATA_KEYS, help="in all environments together (6,000)")
    parser.add_argument("--logs", type=Path, default=None, help="keep the processes' logs in this folder")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else secrets.randbelow(2**32)
    console.print(f"soak of {asked.minutes:g} minutes, seed {seed}")
    configure_logs(Settings(log_level="error"))
    if asked.logs is not None:
        asked.logs.mkdir(parents=True, exist_ok=True)
        summary = _soak(asked.logs, asked.minutes, asked.data_keys, seed)
    else:
        with temporary_folder() as name:
            summary = _soak(Path(name), asked.minutes, asked.data_keys, seed)
    _print(summary)
    print(summary.to_json())
    return 0 if summary.is_good else 1


def _soak(folder: Path, minutes: float, data_keys: int, seed: int) -> Summary:
    with running_installation(folder) as installation:
        rng = random.Random(seed)
        customers = Customers(installation, random.Random(rng.random()))
        customers.settle(ENVIRONMENTS, data_keys)
        results = _start_users(installation, customers, seed)
        keys = [key for tenant in customers.tenants for key in tenant.keys]
        havoc, watch = Havoc(installation, keys, random.Random(rng.random())), Watch(installation)
        customers.start()
        havoc.start()
        _watch_until(time.time() + minutes * 60, watch)
        havoc.stop()
        customers.stop()
        left = _wait_for_the_end(installation, customers, watch)
        for name in [*installation.supervisor.running()]:
            if name.startswith(("reader", "writer")) or name in (*WORKERS, BEAT):
                installation.supervisor.stop_child(name)
        diary = havoc.diary
        summary = Summary(
            seed=seed, minutes=minutes, kills=dict(diary.kills), faults=dict(diary.faults),
            messages_doubled=diary.doubled, asked=dict(customers.asked), left_open=left,
            longest_stall_seconds=round(watch.longest, 1), in_longest_stall=diary.between(*watch.when),
            errors=[repr(error) for error in (havoc.error, customers.error) if error is not None],
        )  # fmt: skip
        judge(summary, installation, customers, diary, results)
        return summary


def _start_users(installation: Installation, customers: Customers, seed: int) -> list[Path]:
    keys, places = customers.write_files()
    results = []
    for kind, given, count in (("reader", keys, READERS), ("writer", places, WRITERS)):
        for number in range(count):
            name = f"{kind}-{number + 1}"
            results.append(installation.folder / f"{name}.jsonl")
            results[-1].touch()
            installation.start(name, "-m", "tests.soak.users", kind, given, str(results[-1]), f"{seed}-{name}")
    return results


def _watch_until(deadline: float, watch: Watch) -> None:
    while time.time() < deadline:
        watch.look()
        time.sleep(LOOK_SECONDS)


def _wait_for_the_end(installation: Installation, customers: Customers, watch: Watch) -> list[str]:
    """Nothing goes wrong any more: what is open ends, what is locked is unlocked, as every key is back, and events have
    their effect and are told. What is left is named.
    """
    deadline = time.time() + END_SECONDS
    while True:
        watch.look()
        left = [f"repack {one.repack_id} is {one.state}" for one in customers.open_repacks()]
        with installation.services.database.read() as connection:
            environments = [get_environment(connection, tenant.environment.id) for tenant in customers.tenants]
            left += [f"{one} is locked: {one.lock_cause}" for one in environments if one.lock_cause]
            left += [f"event {row} waits" for row in inbox.unhandled(connection)]
            untold = select(func.count()).select_from(outbox).where(outbox.c.published_at.is_(None))
            if count := connection.execute(untold).scalar_one():
                left.append(f"{count} events are not published")
        if not left or time.time() > deadline:
            return left
        time.sleep(LOOK_SECONDS)


def _print(summary: Summary) -> None:
    table = Table("what", "how much", title=f"soak: {'good' if summary.is_good else 'BAD'}", title_justify="left")
    for name in Summary.__slots__:
        value = getattr(summary, name)
        if isinstance(value, dict):
            value = "  ".join(f"{key} {count}" for key, count in sorted(value.items()))
        elif isinstance(value, list):
            value = "\n".join(str(one)[:400] for one in value)
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
