"""One engine a process, and its kinds of transaction: `read`, `autocommit_read`, `snapshot` and `write`.

PostgreSQL runs READ COMMITTED, which is set here whatever the server, the database or the role are set to; whatever
must not change under a writer is locked by row. SQLite has one writer at a time: `write` takes the lock at BEGIN, so
that a transaction never fails halfway for want of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection as Connection  # what every function of the engine takes: a transaction
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from workers.errors import NotConfigured
from workers.store.driver_errors import translated
from workers.store.types import read_clock

BUSY_SECONDS = 60
"""How long a SQLite writer waits for another one: longer than the longest transaction by far."""

IDLE_SECONDS = 20
"""How long PostgreSQL keeps what a process holds that was frozen in a transaction; ours think for milliseconds."""

CONNECT_SECONDS = 5
"""How long a new connection may take: a server that is up answers at once, and one that is not is tried again."""

LOCK_SECONDS = 60
"""How long PostgreSQL waits for a lock that another one holds: as long as SQLite's writers, then all is tried anew."""

STATEMENT_SECONDS = 600
"""How long one statement may work: the longest ones count ten million keys for a plan."""

SILENCE_SECONDS = 20
"""After so long without a sign of the server's machine a connection is given up: a network may swallow everything."""

POOL_SECONDS = 30
"""How long a thread waits for one of this process's connections."""

ISOLATION = "READ COMMITTED"
"""R5: who waited for a row's lock sees what the one before committed. Under REPEATABLE READ the shredder would read as
of before it waited, and destroy a key that was created meanwhile."""

POSTGRESQL: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": SILENCE_SECONDS // 2,
    "keepalives_interval": SILENCE_SECONDS // 8,
    "keepalives_count": 4,
    "tcp_user_timeout": SILENCE_SECONDS * 1000,
    "options": f"-c idle_in_transaction_session_timeout={IDLE_SECONDS}s"
    f" -c lock_timeout={LOCK_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s",
}
"""Nothing waits for ever: what was frozen or cut off fails in the end, and is tried again."""

_WRITE = {"keyrepack_write": True}

InTransaction = Callable[[Connection], None]
"""What a caller wants to be written in the transaction of an act: an event's effect and its record commit together."""


def write_nothing(*_: object) -> None:
    """Write nothing more in the transaction: the default of `in_transaction`."""


class Database:
    """The record. Make one a process, after the fork; `close` gives its connections back."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        """Open `url` lazily. Raises NotConfigured for a database other than SQLite and PostgreSQL."""
        parsed = make_url(url)
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            self.engine = _sqlite(url, parsed.database)
        elif self.dialect == "postgresql":
            self.engine = create_engine(
                url,
                isolation_level=ISOLATION,
                pool_size=pool_size,
                max_overflow=10,
                pool_timeout=POOL_SECONDS,
                pool_pre_ping=True,
                connect_args=POSTGRESQL,
            )
            event.listen(self.engine, "connect", _commit_durably)
        else:
            raise NotConfigured(
                f"{self.dialect} is no database keyrepack runs on.",
                "It runs on SQLite and PostgreSQL.",
                "Set KEYREPACK_DATABASE_URL to sqlite:///PATH or postgresql+psycopg://…",
            )

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads. Raises DatabaseFailed: away, full, or given up."""
        with translated(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def autocommit_read(self) -> Iterator[Connection]:
        """Open a connection for reads of one statement each, nothing streamed. On PostgreSQL there is no transaction
        around them, which would cost two round trips more and, under READ COMMITTED, hold nothing together. Raises
        DatabaseFailed.
        """
        options = {"isolation_level": "AUTOCOMMIT"} if self.dialect == "postgresql" else {}
        with translated(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a transaction whose reads all see the same moment. Raises DatabaseFailed."""
        options = {"isolation_level": "REPEATABLE READ"} if self.dialect == "postgresql" else {}
        with translated(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that commits at the end, or leaves nothing behind. Raises DatabaseFailed."""
        with translated(), self.engine.connect().execution_options(**_WRITE) as connection, connection.begin():
            yield connection

    def now(self) -> float:
        """Return the database's clock, in seconds since the epoch."""
        with self.read() as connection:
            return read_clock(connection)

    def close(self) -> None:
        """Give the connections back. After a fork, a child must not close its parent's: it makes its own Database."""
        self.engine.dispose()


def require_database(url: str, *, exists: bool) -> None:
    """Raise NotConfigured for a URL that is none; with `exists`, for a SQLite file that is not there.

    A command that only reads must not make a file. Nothing is connected.
    """
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, ImportError):
        remedy = "Set KEYREPACK_DATABASE_URL to sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME."
        what = "KEYREPACK_DATABASE_URL names no database."
        raise NotConfigured(what, "It is no URL of a kind we know.", remedy) from None
    path = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
    if exists and path is not None and str(path) != ":memory:" and not path.exists():
        raise NotConfigured(
            "The database is not ready.", f"There is no file {path}.", "Run `keyrepack migrate`, or `keyrepack up`."
        )


def _commit_durably(connection: Any, _record: Any) -> None:
    """R1: what is committed outlives a crash of the server, whatever it, the database or the role are set to.

    A version of a wrapping key that was committed and then lost would have wrapped keys that nothing opens. Stricter
    settings (`remote_apply`) stay.
    """
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
    )
    connection.commit()


def _sqlite(url: str, path: str | None) -> Engine:
    in_memory = not path or path == ":memory:"
    if not in_memory and path:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    options: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
    engine = create_engine(
        url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None}, **options
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a checkpoint that was committed survives a power cut (R4)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -8000")  # kB: a batch's pages and the indexes' upper ones

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("keyrepack_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def driver_of(connection: Connection) -> Any:
    """Return the driver's own connection, in the transaction that SQLAlchemy began."""
    return connection.connection.driver_connection
