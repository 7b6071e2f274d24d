"""The parts of `keyrepack up`: started in order, printed with their addresses, stopped together."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group

from workers.cli.output import console, facts, table
from workers.cli.session import quiet_logs, read_settings
from workers.compose import build_services
from workers.dashboard.auth.users import FIRST_USER, first_start
from workers.embedded.stack import (
    DASHBOARD,
    SIMULATOR,
    Servers,
    start_dashboard,
    start_servers,
    start_workers,
    wait_for_dashboard,
    wait_for_simulator,
    wait_for_worker,
)
from workers.embedded.supervisor import Exit, Supervisor
from workers.errors import NotConfigured
from workers.store.schema import migrate

AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL")
"""AWS's own variables: a user who set one has a KMS already. Nothing else here reads the environment but the settings.
"""


@contextmanager
def standing(data_dir: Path, workers: int, *, dashboard: bool = False) -> Iterator[tuple[Supervisor, Group]]:
    """Keep everything up and ready for the length of a block, and yield a text that says what runs where."""
    folder = data_dir.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    given = _given()
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    with _alone(folder), Supervisor(folder / "log", on_exit=_tell_exit) as supervisor:
        console().print("starting …")
        servers = start_servers(
            supervisor,
            folder,
            given=given,
            broker="KEYREPACK_BROKER_URL" not in given,
            simulator=not any(os.environ.get(name) for name in AWS_ENDPOINTS),
        )
        os.environ.update(servers.environment)
        _migrate()
        start_workers(supervisor, {}, names)
        if servers.simulator is not None:
            wait_for_simulator(supervisor, servers.simulator)
        password = _open_dashboard(supervisor, servers, folder) if dashboard else None
        for name in names:
            wait_for_worker(supervisor, name)
        if dashboard:
            wait_for_dashboard(supervisor, servers)
        yield supervisor, _told(supervisor, servers, folder, password)


def _open_dashboard(supervisor: Supervisor, servers: Servers, folder: Path) -> str | None:
    """Start the dashboard; the first user's one-time password, where there was no user yet."""
    environment = servers.environment
    environment.setdefault("KEYREPACK_USERS_FILE", str(folder / "users.json"))
    start_dashboard(supervisor, servers)
    os.environ.update(environment)
    return first_start(Path(environment["KEYREPACK_USERS_FILE"])) if read_settings().oidc_issuer is None else None


def _given() -> dict[str, str]:
    """Return what the environment says already: it wins."""
    settings = read_settings()
    return {
        name: os.environ[name]
        for name in (f"KEYREPACK_{field.upper()}" for field in settings.model_fields_set)
        if name in os.environ
    }


def _migrate() -> None:
    settings = read_settings()
    quiet_logs(settings)
    services = build_services(settings)
    try:
        migrate(services.database)
    finally:
        services.close()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two of us in one data folder would share a database and fight over its files. Raises NotConfigured."""
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotConfigured(
                f"Nothing was started in {folder}.",
                "Another `keyrepack up` runs there.",
                "Use that one, stop it first, or give another --data-dir.",
            ) from None
        yield


def _told(supervisor: Supervisor, servers: Servers, folder: Path, password: str | None) -> Group:
    """Describe what runs where, and how to talk to it from another terminal."""
    environment = servers.environment
    rows = [
        (name, supervisor.pid(name) or "", _address(name, environment), supervisor.log_file(name))
        for name in supervisor.running()
    ]
    file = _write_environment(folder, environment)
    lines = [("database", _public(environment["KEYREPACK_DATABASE_URL"])), ("data folder", folder)]
    if servers.dashboard:
        lines.append(("dashboard", servers.dashboard))
        named = (
            f"as {FIRST_USER}, by the one-time password {password}" if password else "as before (`keyrepack user list`)"
        )
        lines.append(("sign in", named))
    if servers.simulator is not None:
        lines.append(("a key to try", servers.simulator.create_main_key(description="made by keyrepack up")))
    hints = (
        f"\nIn another terminal: [bold]source {file}[/]"
        "\nthen [bold]keyrepack environment create acme/production[/], [bold]keyrepack doctor[/] …"
        "\nKeys of the KMS simulator live until Ctrl-C; what hangs from them is closed for good afterwards.\n"
    )
    return Group(table(["part", "process ", "where", "log"], rows), "", facts(lines), hints)


def _address(name: str, environment: Mapping[str, str]) -> str:
    known = {"redis": "KEYREPACK_BROKER_URL", SIMULATOR: "AWS_ENDPOINT_URL_KMS", DASHBOARD: "KEYREPACK_DASHBOARD_URL"}
    return _public(environment.get(known.get(name, ""), ""))


def _public(url: str) -> str:
    """Return a URL without its password (R10)."""
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def _write_environment(folder: Path, environment: Mapping[str, str]) -> Path:
    """Variables that point other terminals here. It may hold a password: readable by its owner alone."""
    path = folder / "environment"
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text("".join(f"export {name}={shlex.quote(text)}\n" for name, text in sorted(environment.items())))
    return path


def _tell_exit(end: Exit) -> None:
    again = f"; it starts again in {end.restarts_in:.1f} s" if end.restarts_in is not None else ""
    console().print(f"{end.name} {end.reason}{again}")
