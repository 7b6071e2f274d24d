"""The command line in this process: a transcript of what was typed and what came back."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.conftest import Migrated
from workers.broker.waker import NullWaker
from workers.cli import repack_control, session
from workers.cli.application import run
from workers.compose import build_services
from workers.kms.local.managed import create_managed_key_file
from workers.repack.lifecycle import walk_slice
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.repacks import list_repacks

CLOSED_BROKER = "redis://127.0.0.1:1/0"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came back with."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """The JSON error on standard error."""
        found: dict[str, str] = json.loads(self.err)["error"]
        return found


class Keyrepack:
    """`keyrepack …`, in a folder of the test's own."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capture = folder, capture

    def __call__(self, *arguments: str) -> Answer:
        """Type a command."""
        self._capture.readouterr()
        status = run(list(arguments))
        out, err = self._capture.readouterr()
        assert "Traceback" not in out + err or "--debug" in arguments
        return Answer(status, out, err)

    def done(self, *arguments: str) -> Any:
        """Type a command with --json that succeeds; its document."""
        answer = self(*arguments, "--json")
        assert answer.status == 0, answer
        return answer.document

    def services(self) -> Services:
        """Services on the same database; close them."""
        return build_services(Settings())

    def work(self) -> None:
        """Be the worker until nothing is left to do."""
        services = self.services()
        try:
            with services.database.read() as connection:
                found = [repack.id for repack in list_repacks(connection) if repack.is_open]
            for repack in found:
                while walk_slice(services, repack):
                    pass
        finally:
            services.close()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Keyrepack]:
    """A folder with nothing in it yet, and a broker that does not answer."""
    monkeypatch.setenv("KEYREPACK_DATABASE_URL", f"sqlite:///{tmp_path}/keyrepack.db")
    monkeypatch.setenv("KEYREPACK_MANAGED_KEY_FILE", str(tmp_path / "managed.key"))
    monkeypatch.setenv("KEYREPACK_BROKER_URL", CLOSED_BROKER)
    # Each attempt to reach a broker that is away takes a second.
    monkeypatch.setattr(session, "_waker", lambda _: NullWaker())
    monkeypatch.setattr(repack_control, "broker_answers", lambda _: False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Keyrepack(tmp_path, capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def keyrepack(bare: Keyrepack, migrated: Migrated) -> Keyrepack:
    """A database that is ready, and the platform's own key."""
    migrated.sqlite(bare.folder / "keyrepack.db")
    create_managed_key_file(bare.folder / "managed.key")
    return bare


@pytest.fixture
def seeded(keyrepack: Keyrepack) -> Keyrepack:
    """An environment acme/production with 2 connection keys, 3 hourly keys and 50 job data keys."""
    keyrepack.done("environment", "create", "acme/production")
    keyrepack.done("seed", "acme/production", "--connections", "2", "--hourly", "3", "--data", "50")
    return keyrepack


@pytest.fixture
def moving(seeded: Keyrepack) -> Keyrepack:
    """The same, with a deep repack started that nobody works on."""
    seeded.done("managed-key", "rotate")
    seeded.done("main-key", "replace", "acme/production", "managed:")
    return seeded
