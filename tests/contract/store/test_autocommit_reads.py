"""A look has no transaction around it, and leaves none of that to whoever gets its connection next."""

from __future__ import annotations

import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import func, insert, select, text

from workers.store.database import Database, driver_of
from workers.store.models import ticks


def test_a_look_is_one_round_trip(database: Database) -> None:
    """On PostgreSQL nothing is open once a statement has been answered; a `read` is."""
    for kind, status in (
        (database.autocommit_read, TransactionStatus.IDLE),
        (database.read, TransactionStatus.INTRANS),
    ):
        with kind() as connection:
            assert connection.execute(text("select 1")).scalar_one() == 1
            if database.dialect == "postgresql":
                assert driver_of(connection).info.transaction_status == status


def test_a_write_after_a_look_is_whole_or_not_at_all(database: Database) -> None:
    """R4: the connection that a look had, without transactions, has them again."""
    only_one = Database(database.engine.url.render_as_string(hide_password=False), pool_size=1)
    try:
        with only_one.autocommit_read() as connection:
            connection.execute(text("select 1"))
        with pytest.raises(ZeroDivisionError):
            _write_and_fail(only_one)
        with only_one.autocommit_read() as connection:
            assert connection.execute(select(func.count()).select_from(ticks)).scalar_one() == 0
    finally:
        only_one.close()


def _write_and_fail(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(ticks).values(job="test", slot=1, at=0.0))
        raise ZeroDivisionError
