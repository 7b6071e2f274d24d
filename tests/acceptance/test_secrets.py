"""Plaintext key bytes are nowhere outside the functions that wrap and unwrap, and wraps are in no log (R10)."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import text

from schemas.states import RepackState
from tests.acceptance.stack import FIRST_ON_POSTGRESQL, PATIENCE, Seeded, Stack
from workers.celery_app.app import make_app
from workers.celery_app.config import WALK
from workers.store import models

pytestmark = pytest.mark.acceptance

LOOKED_FOR = 12
"""How many keys' bytes are looked for, of each kind."""


@FIRST_ON_POSTGRESQL
def test_no_secret_is_anywhere(stack: Stack) -> None:
    """After a run with a crash in mid-batch and a failing KMS, at debug level: no plaintext, and no wrap in a log."""
    first_key = stack.simulator.create_main_key()
    seeded = stack.seed(data=3000)
    before = _wraps(stack, seeded)
    materials = [*list(seeded.sample.values())[::3], *_wrapping_material(stack, seeded)]
    stack.replace(seeded.environment, str(first_key))
    caught = stack.catch(seeded.environment)
    leader, child = stack.supervisor.pid(caught), stack.pool_process(caught)
    assert leader is not None
    os.kill(child, signal.SIGUSR1)  # billiard's soft time limit: raised wherever the batch is, traceback and all
    os.killpg(leader, signal.SIGCONT)
    stack.wait_for(lambda: "SoftTimeLimitExceeded" in stack.logs()[caught], PATIENCE, "a traceback")
    make_app(stack.settings).send_task(WALK, args=["no id"], queue="keyrepack.repacks")
    stack.check_deep(seeded, stack.ended(seeded.environment), takeovers=1)
    materials += _wrapping_material(stack, seeded)  # fresh in this repack

    second = stack.simulator.create_main_key()
    stack.simulator.inject("error", key=second.name, operation="ReEncrypt", count=12, code="KMSInternalException")
    first = stack.repack(seeded.environment)
    stack.replace(seeded.environment, str(second), mode="shallow")
    stack.wait_for(lambda: stack.log_lines("event.left"), PATIENCE, "the KMS fails")
    again = stack.ended(seeded.environment, after=first)
    assert again.state == RepackState.FINISHED

    logs = {name: said.encode() for name, said in stack.logs(since_healed=False).items()}
    assert sum(map(len, logs.values())) > 100_000  # they do hold a run at debug level
    assert any(b"Traceback" in said or b"exc_type" in said for said in logs.values())
    wraps = [*before[-LOOKED_FOR:], *_wraps(stack, seeded)[-LOOKED_FOR:]]
    places = logs | _database(stack) | stack.broker.contents()
    assert _found(materials, places) == []
    assert _found(wraps, logs | stack.broker.contents()) == []


def test_the_search_would_find_what_it_looks_for() -> None:
    """Each way in which bytes may be written down is found, amid other bytes."""
    secret = os.urandom(32)
    for written in forms(secret):
        assert _found([secret], {"log": b"before" + written + b"after"}) == ["log"]
    assert _found([secret], {"log": os.urandom(100_000)}) == []


def forms(secret: bytes) -> set[bytes]:
    """How bytes look where somebody wrote them down."""
    encoded = (base64.b64encode(secret), base64.urlsafe_b64encode(secret), base64.b32encode(secret))
    written = repr(secret)[2:-1].encode()
    return {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        *(one.rstrip(b"=") for one in encoded),
        written,
        written.replace(b"\\", b"\\\\"),  # a repr inside JSON
        repr(list(secret))[1:-1].encode(),
        str(int.from_bytes(secret)).encode(),
    }


def _found(secrets: Iterable[bytes], places: dict[str, bytes]) -> list[str]:
    """Where any of these is written, in any form."""
    wanted = {form for secret in secrets for form in forms(secret)}
    return [name for name, content in places.items() if any(form in content for form in wanted)]


def _wrapping_material(stack: Stack, seeded: Seeded) -> list[bytes]:
    """The plaintext of every wrapping key's versions that still open."""
    query = text(
        "select v.wrapping_key, v.version from wrapping_versions v join wrapping_keys k on k.id = v.wrapping_key "
        "where k.environment = :environment and v.state <> 'shredded'"
    )
    with stack.services.database.read() as connection:
        pairs = [(row[0], row[1]) for row in connection.execute(query, {"environment": seeded.environment.id})]
    opened = stack.services.key_opener.open(seeded.environment.environment_id, pairs)
    materials = [material for material in opened.values() if isinstance(material, bytes)]
    assert len(materials) == len(pairs) == seeded.wrapping_keys
    return materials


def _wraps(stack: Stack, seeded: Seeded) -> list[bytes]:
    """Stored wraps: roots' and data keys'."""
    mine = {"environment": seeded.environment.id}
    with stack.services.database.read() as connection:
        roots = connection.execute(text("select wrapped from root_wraps where environment = :environment"), mine)
        keys = connection.execute(
            text("select wrapped from data_keys where environment = :environment and wrapped is not null limit 20"),
            mine,
        )
        return [bytes(row[0]) for row in [*roots, *keys]]


def _database(stack: Stack) -> dict[str, bytes]:
    """Every row of every table, and SQLite's files."""
    places: dict[str, bytes] = {}
    with stack.services.database.read() as connection:
        for table in models.metadata.sorted_tables:
            rows = connection.execute(table.select())
            places[f"table {table.name}"] = b"\n".join(_written(row) for row in rows)
    path = stack.services.database.engine.url.database
    if stack.services.database.dialect == "sqlite" and path is not None:
        for file in Path(path).parent.glob(f"{Path(path).name}*"):
            # By another process: to close any file of SQLite's here would end the locks that this process has on it,
            # and what others then delete is what it goes on reading.
            places[file.name] = subprocess.run(["cat", str(file)], capture_output=True, check=False).stdout
    return places


def _written(row: Iterable[object]) -> bytes:
    return b"|".join(bytes(one) if isinstance(one, bytes | memoryview) else str(one).encode() for one in row)
