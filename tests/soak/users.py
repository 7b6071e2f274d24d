"""Other services: one that reads keys all the while, and one that creates them.

    python -m tests.soak.users reader KEYS RESULTS SEED
    python -m tests.soak.users writer PLACES RESULTS SEED

KEYS: JSON [[environment, key, SHA-256 of its material]]. PLACES: JSON [[environment, wrapping key]]. RESULTS gets a
line of JSON a failure ({at, environment, code}), a created key ({environment, key, digest}), and a second ({at, done}).
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from schemas.errors import KeyrepackError
from workers.compose import broker_notifier, build_services
from workers.keyring.keyring import Keyring
from workers.runtime.logs import configure_logs
from workers.runtime.settings import Settings

READ_PAUSE, WRITE_PAUSE = 0.01, 0.15
"""Between two acts: one who spins would starve the workers on a small machine."""

ROOTS_EVERY = 12
"""One creation in so many is a connection key: a root, by a call to the KMS."""


class Record:
    """What came of each act."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._done, self._told = file, 0, time.monotonic()

    def attempt(self, environment: str, act: Callable[[], None]) -> None:
        """Do it, and write down how it failed: an error that is not ours has no announced cause."""
        try:
            act()
            self._done += 1
        except KeyrepackError as error:
            self.write(environment=environment, code=error.code, why=str(error)[:300])
        except Exception as error:
            self.write(environment=environment, code=f"error:{type(error).__name__}", why=str(error)[:300])
        if time.monotonic() - self._told > 1:
            self.write(done=self._done)
            self._done, self._told = 0, time.monotonic()

    def write(self, **facts: Any) -> None:
        """One line, with the time."""
        self._file.write(json.dumps({"at": time.time(), **facts}) + "\n")


def read(keyring: Keyring, keys: list[list[str]], record: Record, rng: random.Random) -> None:
    """Unwrap a key, and see that it is the one it was."""

    def look(key: str, digest: str) -> None:
        if hashlib.sha256(keyring.unwrap(UUID(key))).hexdigest() != digest:
            raise AssertionError(f"{key} opened to other material")

    while True:
        environment, key, digest = rng.choice(keys)
        record.attempt(environment, lambda key=key, digest=digest: look(key, digest))
        time.sleep(READ_PAUSE)


def write(keyring: Keyring, places: list[list[str]], record: Record, rng: random.Random) -> None:
    """Create a key somewhere, and write down what it opens to: it may never be lost again."""

    def create(environment: str, parent: UUID | None) -> None:
        made = keyring.create_data_key(UUID(environment), parent)
        digest = hashlib.sha256(made.material).hexdigest()
        record.write(environment=environment, key=str(made.key_id), digest=digest)

    while True:
        environment, parent = rng.choice(places)
        above = None if rng.randrange(ROOTS_EVERY) == 0 else UUID(parent)
        record.attempt(environment, lambda environment=environment, above=above: create(environment, above))
        time.sleep(WRITE_PAUSE)


def main(kind: str, given: str, results: str, seed: str) -> None:
    """Until told to stop."""
    settings = Settings()
    configure_logs(settings)
    keyring = Keyring(build_services(settings, notifier=broker_notifier(settings)))
    with Path(results).open("w", buffering=1) as file:
        work = {"reader": read, "writer": write}[kind]
        work(keyring, json.loads(Path(given).read_text()), Record(file), random.Random(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
