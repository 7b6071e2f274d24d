"""`python -m workers.cli.demo.reader`: another service, which unwraps and creates keys all the while and counts.

It has a keyring and services of its own, and keeps no plaintext: each unwrap goes all the way. A failure is anything
that raises, and any key that does not open to the bytes it had before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from workers.cli.session import quiet_logs, read_settings
from workers.compose import build_services
from workers.keyring.keyring import Keyring

PAUSE_SECONDS = 0.005
"""Between two keys: some hundred operations a second leave the workers their cores."""

REPORT_EVERY = 20
"""Operations between two reports."""

CREATED_EVERY = 4
ROOT_EVERY = 40
"""Every fourth operation creates a key, every fortieth one directly below the main key."""


@dataclass(slots=True, kw_only=True)
class ReaderCounts:
    """What a reader did so far."""

    unwrapped: int = 0
    created: int = 0
    failures: int = 0
    last_failure: str = ""


class Reader:
    """Unwraps keys that it knows, and creates others, which it knows from then on."""

    def __init__(self, keyring: Keyring, known: dict[str, dict[str, list[str]]], report: Path) -> None:
        self.counts = ReaderCounts()
        self._keyring, self._report = keyring, report
        self._parents = {name: [UUID(key) for key in keys["parents"]] for name, keys in known.items()}
        self._keys = {name: [UUID(key) for key in keys["keys"]] for name, keys in known.items()}
        self._born: dict[UUID, bytes] = {}  # R10: digests, not keys
        self._attempts = 0
        self._chance = random.Random()  # noqa: S311 - chooses what to read next, nothing secret

    def run(self, stop: threading.Event) -> None:
        """Read one key after the other until told to stop."""
        self.report()
        for key in [key for keys in self._keys.values() for key in keys]:
            if not stop.is_set():
                self._attempt(self._unwrap, key)
        turn = 0
        while not stop.wait(PAUSE_SECONDS):
            turn += 1
            name = self._chance.choice(list(self._keys))
            if turn % CREATED_EVERY == 0:
                self._attempt(self._create, name, turn % ROOT_EVERY == 0)
            else:
                self._attempt(self._unwrap, self._chance.choice(self._keys[name]))
        self.report()

    def report(self) -> None:
        """Write the counts; a reader of the file sees all of them or the last ones."""
        part = self._report.with_suffix(".part")
        part.write_text(json.dumps(asdict(self.counts)))
        os.replace(part, self._report)

    def _attempt(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the demo must not see
            self.counts.failures += 1
            self.counts.last_failure = f"{type(error).__name__}: {error}"
            sys.stderr.write(f"{self.counts.last_failure}\n")
        self._attempts += 1
        if self._attempts % REPORT_EVERY == 0:
            self.report()

    def _unwrap(self, key: UUID) -> None:
        digest = hashlib.sha256(self._keyring.unwrap(key)).digest()
        if self._born.setdefault(key, digest) != digest:
            raise ValueError(f"Key {key} opens to other bytes than before.")
        self.counts.unwrapped += 1

    def _create(self, name: str, is_root: bool) -> None:
        parent = None if is_root else self._chance.choice(self._parents[name])
        created = self._keyring.create_data_key(name, parent)
        self._born[created.key_id] = hashlib.sha256(created.material).digest()
        self._keys[name].append(created.key_id)
        self.counts.created += 1


def main() -> int:
    """Read and create until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=Path, required=True, help='{"workspace/name": {"keys": […], "parents": […]}}')
    parser.add_argument("--report", type=Path, required=True, help="file to write the counts to")
    wanted = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = read_settings().model_copy(update={"cache_ttl": 0.0, "cache_size": 0})
    quiet_logs(settings)
    services = build_services(settings)
    try:
        Reader(Keyring(services), json.loads(wanted.keys.read_text()), wanted.report).run(stop)
    finally:
        services.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
