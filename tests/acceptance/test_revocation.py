"""Revoked means gone, with real processes: readers, workers and a repack under way."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from schemas.events import Event
from schemas.states import RepackState
from tests.acceptance.stack import Seeded, Stack
from tests.poll import poll
from workers.embedded.supervisor import Child, Supervisor
from workers.keyring.keyring import Keyring
from workers.store.environments import Environment

READERS = 8
BOUND_SECONDS = 1.0
"""From the revocation's publication to the last process that refuses."""

pytestmark = pytest.mark.acceptance


class Readers:
    """Processes that unwrap an environment's keys all the while."""

    def __init__(self, supervisor: Supervisor, folder: Path, stack: Stack, seeded: Seeded, count: int) -> None:
        self._files = [folder / f"reader-{number}.txt" for number in range(count)]
        keyring = Keyring(stack.services)
        some = seeded.sample
        keys = {str(key): hashlib.sha256(material).hexdigest() for key, material in some.items()}
        assert all(keyring.unwrap(key) == material for key, material in some.items())
        (folder / "keys.json").write_text(json.dumps(keys))
        for file in self._files:
            argv = [sys.executable, "-m", "tests.acceptance.reader", str(folder / "keys.json"), str(file)]
            supervisor.start(Child(name=file.stem, argv=argv, env={**os.environ, **stack.variables()}, restart=False))

    def outcomes(self) -> list[list[tuple[float, str]]]:
        """What each reader saw, in order: (time, outcome)."""
        return [
            [(float(at), outcome) for at, outcome in (line.split() for line in file.read_text().splitlines())]
            if file.exists()
            else []
            for file in self._files
        ]

    def all_are(self, outcome: str, *, since: float) -> bool:
        """Whether every reader's last word since then is this one."""
        return all(seen and seen[-1][0] >= since and seen[-1][1] == outcome for seen in self.outcomes())


@pytest.fixture
def seeded(stack: Stack) -> Seeded:
    """An environment that a repack walks for a while."""
    return stack.seed(data=12_000)


@pytest.fixture
def readers(stack: Stack, seeded: Seeded, tmp_path: Path) -> Iterator[Readers]:
    """Eight readers that have begun to read."""
    with Supervisor(tmp_path / "log") as supervisor:
        readers = Readers(supervisor, tmp_path, stack, seeded, READERS)
        poll(lambda: readers.all_are("ok", since=0), 60, "every reader to read")
        yield readers


def say(stack: Stack, kind: str, environment: Environment) -> float:
    """Publish the customer's word. Returns when."""
    event = Event(id=str(uuid4()), source="console", type=kind, data={"environment": str(environment.environment_id)})
    at = time.time()
    stack.publish(event.to_bytes(), routing_key=kind)
    return at


def test_a_revocation_under_load(stack: Stack, seeded: Seeded, readers: Readers) -> None:
    """R8: revoked under load, no read succeeds after the bound; given back, none fails; and nothing is lost."""
    environment = seeded.environment
    stack.replace(environment, str(stack.simulator.create_main_key()))
    repack = stack.started(environment)
    revoked = say(stack, "main_key.revoked", environment)
    poll(lambda: readers.all_are("environment_locked", since=revoked), 20, "every reader to be refused")
    time_refused = time.time()
    poll(lambda: time.time() > time_refused + 2, 5, "two seconds of refusals")
    restored = say(stack, "main_key.restored", environment)
    poll(lambda: readers.all_are("ok", since=restored), 20, "every reader to read again")
    ended = stack.ended(environment)
    assert (ended.id, ended.state) == (repack.id, RepackState.FINISHED)
    for seen in readers.outcomes():
        assert {outcome for at, outcome in seen if at < revoked} == {"ok"}
        assert not [at for at, outcome in seen if outcome == "ok" and revoked + BOUND_SECONDS < at < restored]
        returned = next(at for at, outcome in seen if outcome == "ok" and at > restored)
        assert {outcome for at, outcome in seen if at > returned} == {"ok"}
    stack.check_keys(seeded)
