"""Sets the demo up: a folder, the parts that run in it, and the services it reads through."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from schemas.errors import KeyrepackError
from workers.cli.demo.interruption import Interruption, handled
from workers.cli.session import quiet_logs, read_settings
from workers.compose import build_services
from workers.embedded.simulator.client import SimulatorClient
from workers.embedded.stack import Servers, start_servers, start_workers
from workers.embedded.supervisor import Supervisor
from workers.errors import NotConfigured
from workers.keyring.keyring import Keyring
from workers.services import Services
from workers.store.schema import migrate

WORKERS = ("worker-1", "worker-2")

SETTINGS = {
    "KEYREPACK_LEASE_SECONDS": "4",  # a killed worker's shard is taken over after that long …
    "KEYREPACK_SWEEP_SECONDS": "1",  # … and this: by default 45 s together, which is long to look at
    "KEYREPACK_LOG_LEVEL": "info",
    "KEYREPACK_LOG_FORMAT": "json",
}
"""What the demo sets otherwise than by default."""

NO_ACCOUNT = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
"""Nothing of the user's own AWS account takes part."""

NOT_OURS = ("KEYREPACK_", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN")
"""Variables that would lead the demo's processes elsewhere, by the beginning of their names."""


class DemoFailed(KeyrepackError):
    """Something that the demo shows did not happen."""

    code = "demo_failed"
    remedy = "Run it again with --keep and look at the logs in its data folder."


@dataclass(slots=True, kw_only=True)
class Scene:
    """What every step works with."""

    console: Console
    folder: Path
    supervisor: Supervisor
    servers: Servers
    services: Services
    keyring: Keyring
    interruption: Interruption

    @property
    def simulator(self) -> SimulatorClient:
        """Return the KMS, as the customer would use it."""
        assert self.servers.simulator is not None
        return self.servers.simulator


@contextmanager
def scene(console: Console, data_dir: Path | None, *, keep: bool) -> Iterator[Scene]:
    """Servers, workers and beat for the length of a block, on a database that is ready. Then nothing of it is left."""
    early, interruption = Interruption(), Interruption()
    with (
        early.watched(),
        _folder(data_dir, keep=keep) as folder,
        _own_environment(),
        Supervisor(folder / "log") as supervisor,
        interruption.watched(),
    ):
        servers = start_servers(supervisor, folder, given=SETTINGS | NO_ACCOUNT, broker=True, simulator=True)
        os.environ.update(servers.environment)
        settings = read_settings()
        quiet_logs(settings)
        services = build_services(settings)
        try:
            migrate(services.database)
            start_workers(supervisor, {}, WORKERS)
            yield Scene(
                console=console,
                folder=folder,
                supervisor=supervisor,
                servers=servers,
                services=services,
                keyring=Keyring(services),
                interruption=interruption,
            )
        finally:
            services.close()


@contextmanager
def _own_environment() -> Iterator[None]:
    """Keep this process's variables the demo's alone, and restore the user's afterwards: children inherit them."""
    before: Mapping[str, str] = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(NOT_OURS)]:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _folder(data_dir: Path | None, *, keep: bool) -> Iterator[Path]:
    """Make a folder of the demo's own, removed afterwards unless it is to be kept. Raises NotConfigured."""
    if data_dir is None:
        folder = Path(tempfile.mkdtemp(prefix="keyrepack-demo-"))
    else:
        folder = data_dir.resolve()
        if folder.exists() and any(folder.iterdir()):
            raise NotConfigured(
                f"The demo does not run in {folder}.", "The folder is not empty.", "Name an empty or a new one."
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not keep:
            with handled(signal.SIG_IGN):
                shutil.rmtree(folder, ignore_errors=True)
