"""Translates a driver's error: away, full, given up; or none of ours, and a fault of the program.

The driver's text is not repeated (R10: it may hold what was in a row); its code is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from workers.errors import DatabaseAway, DatabaseFailed, DatabaseFull, TransactionConflict

CONFLICTS = {
    "40001": "It could not be serialised beside another one.",
    "40P01": "It and another one waited for each other.",
    "55P03": "What it waited for was held by another one for too long.",
}
"""PostgreSQL's serialization_failure, deadlock_detected, lock_not_available."""

FULL = "53100"
"""PostgreSQL's disk_full. A full disk of its log ends the server instead: then it is away."""

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
OUT_OF_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
"""SQLite's codes where no page could be added; the second is how a full disk shows in the index of its log."""

_AWAY = (sqlite3.OperationalError, sqlite3.InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)

_PRIMARY = 0xFF
"""SQLite's extended codes carry the primary one in their lowest byte."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise what a driver's error means: DatabaseAway, DatabaseFull, TransactionConflict. Others pass."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseAway("No connection of this process came free.") from error
    except DBAPIError as error:
        failure = meaning_of(error.orig, is_broken=error.connection_invalidated)
        if failure is None:
            raise
        raise failure from error
    except (sqlite3.Error, psycopg.Error) as error:  # of the pages, which speak to the driver itself
        failure = meaning_of(error)
        if failure is None:
            raise
        raise failure from error


def meaning_of(error: BaseException | None, *, is_broken: bool = False) -> DatabaseFailed | None:
    """None for an error that says nothing of the database's state: a broken rule, a wrong statement."""
    state, code = getattr(error, "sqlstate", None), getattr(error, "sqlite_errorcode", 0)
    if state in CONFLICTS:
        return TransactionConflict(CONFLICTS[state])
    if code & _PRIMARY in BUSY:
        return TransactionConflict("Another process was writing for too long.")
    if state == FULL or code in OUT_OF_ROOM:
        return DatabaseFull("Its disk is full.")
    if is_broken:
        return DatabaseAway("The connection broke.")
    if isinstance(error, _AWAY) and code != sqlite3.SQLITE_ERROR:  # that one is a statement it cannot run
        told = f" ({state})" if state else ""
        return DatabaseAway(f"{type(error).__name__}{told} from process {os.getpid()}.")
    return None
