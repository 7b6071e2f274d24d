"""Processes that unwrap keys all the while, and when each could and could not."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.stack import Bench
from tests.poll import poll
from workers.embedded.supervisor import Child
from workers.keyring.keyring import Created
from workers.store.environments import Environment

KEYS = 50
"""Data keys that each of them reads in turn."""

START_SECONDS, PATIENCE_SECONDS = 60.0, 60.0


class Readers:
    """Some readers of one environment."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def await_reading(self, *, since: float) -> float:
        """When the last of them began to read again, after `since`."""
        return max(self._await(is_reading=True, since=since))

    def await_refused(self, *, since: float) -> float:
        """When the last of them was refused for good, after `since`."""
        return max(self._await(is_reading=False, since=since))

    def _await(self, *, is_reading: bool, since: float) -> list[float]:
        found: list[float] = []

        def look() -> bool:
            turns = [_last_turn(file) for file in self._files]
            found[:] = [at for at, _ in turns]
            return all(at >= since and (outcome == "ok") == is_reading for at, outcome in turns)

        poll(look, PATIENCE_SECONDS, f"every reader to {'read' if is_reading else 'be refused'}")
        return found


@contextmanager
def running_readers(bench: Bench, environment: Environment, count: int) -> Iterator[Readers]:
    """Readers that have begun to read."""
    folder = bench.folder / f"readers-{environment.name}"
    folder.mkdir()
    (folder / "keys.json").write_text(json.dumps(_digests(_make_keys(bench, environment))))
    files = [folder / f"reader-{number}.txt" for number in range(count)]
    names = [f"{environment.name}-{file.stem}" for file in files]
    for name, file in zip(names, files, strict=True):
        argv = [sys.executable, "-m", "tests.acceptance.reader", str(folder / "keys.json"), str(file)]
        bench.supervisor.start(Child(name=name, argv=argv, env=dict(os.environ), restart=False))
    poll(lambda: all(file.exists() and file.read_text() for file in files), START_SECONDS, "every reader to start")
    readers = Readers(files)
    readers.await_reading(since=0)
    yield readers
    for name in names:
        bench.supervisor.stop_child(name)


def _make_keys(bench: Bench, environment: Environment) -> list[Created]:
    keyring, reference = bench.keyring, environment.environment_id
    return keyring.create_data_keys(reference, keyring.create_wrapping_key(reference), KEYS)


def _digests(keys: list[Created]) -> dict[str, str]:
    return {str(key.key_id): hashlib.sha256(key.material).hexdigest() for key in keys}


def _last_turn(file: Path) -> tuple[float, str]:
    """Since when a reader has been reading, or refused; and its last word."""
    lines = [line.split() for line in file.read_text().splitlines()]
    outcome, since = lines[-1][1], float(lines[-1][0])
    for at, former in reversed(lines):
        if (former == "ok") != (outcome == "ok"):
            break
        since = float(at)
    return since, outcome
