"""`python -m tests.bench.pages`: how long a page takes with 1,000 environments and runs over 10,000,000 keys.

The rows that pages read are there as a year of work leaves them: environments, tops, root wraps, repacks, shards, audit
records. Of the keys themselves there are none, for no page reads one: `tests/unit/dashboard/views/test_reads.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert
from starlette.testclient import TestClient

from tests.unit.dashboard.conftest import HOST, FakeBroker
from workers.compose import build_services
from workers.dashboard.application import make_application
from workers.dashboard.auth.users import Role, Users
from workers.dashboard.site import make_site
from workers.kms.local.memory import MemoryKms
from workers.runtime.settings import Settings
from workers.store import models
from workers.store.audit import append_record
from workers.store.database import Database
from workers.store.schema import migrate

ROOTS, SHARD_KEYS, RECORDS = 29, 25_000, 20_000
OPEN = 20
"""Repacks at work at once."""


def main() -> int:
    """A table, and one line of JSON last."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages", description=__doc__)
    parser.add_argument("--environments", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--times", type=int, default=15, help="how often each page is asked for")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), asked.environments, asked.keys, asked.times)
    table = Table(box=None, header_style="bold")
    for column in ("page", "median ms", "slowest ms", "kB"):
        table.add_column(column, justify="left" if column == "page" else "right")
    for name, row in result["pages"].items():
        table.add_row(name, f"{row['median_ms']:.1f}", f"{row['slowest_ms']:.1f}", f"{row['kilobytes']:.0f}")
    Console(stderr=True).print(table)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if all(row["median_ms"] < 100 for row in result["pages"].values()) else 1


def measure(folder: Path, environments: int, keys: int, times: int) -> dict[str, Any]:
    """Every page, asked for again and again through the whole application."""
    url = f"sqlite:///{folder}/keyrepack.db"
    database = Database(url)
    migrate(database)
    ids = fill(database, environments, keys)
    database.close()
    users = folder / "users.json"
    token = Users(users).add_with_token("bench", Role.SECURITY)
    services = build_services(
        Settings(database_url=SecretStr(url), users_file=users, dashboard_url=HOST), providers=[MemoryKms()]
    )
    site = make_site(services, FakeBroker())
    client = TestClient(make_application(site), base_url=HOST, headers={"authorization": f"Bearer {token}"})
    site.overview_cache.start()
    pages = {
        "overview": "/overview", "queues": "/queues", "repacks": "/repacks", "open repacks": "/repacks?state=open",
        "repack": f"/repacks/{ids['repack']}", "environments": "/environments",
        "environments, found": "/environments?text=w7", "environment": f"/environments/{ids['environment']}",
        "main keys": "/main-keys", "workers": "/workers", "audit": "/audit", "audit, searched": "/audit?text=nothing",
    }  # fmt: skip
    try:
        return {
            "environments": environments,
            "keys": keys,
            "pages": {n: _ask(client, p, times) for n, p in pages.items()},
        }
    finally:
        client.close()
        site.close()
        services.close()


def _ask(client: TestClient, path: str, times: int) -> dict[str, float]:
    seconds, size = [], 0
    for _ in range(times):
        begun = time.perf_counter()
        response = client.get(path)
        seconds.append(time.perf_counter() - begun)
        assert response.status_code == 200, (path, response.text[:500])
        size = len(response.content)
    return {
        "median_ms": round(median(seconds) * 1000, 1),
        "slowest_ms": round(max(seconds) * 1000, 1),
        "kilobytes": size / 1000,
    }


def fill(database: Database, environments: int, keys: int) -> dict[str, str]:
    """Rows as the engine leaves them."""
    now, ids = time.time(), {}
    shards_each = max(keys // environments // SHARD_KEYS, 1)
    with database.write() as connection:
        connection.execute(
            insert(models.environments),
            [
                {"id": n, "environment_id": uuid4(), "workspace": f"w{n // 3}", "name": f"e{n % 3}", "created_at": now,
                 "lock_cause": "revoked" if n % 100 == 0 else None, "locked_at": now if n % 100 == 0 else None}
                for n in range(1, environments + 1)
            ],
        )  # fmt: skip
        connection.execute(insert(models.top_versions), [_top(n, now) for n in range(1, environments + 1)])
        connection.execute(
            insert(models.root_wraps),
            [
                {"environment": n, "kind": "wrapping", "key": n * 100 + root, "key_version": 1, "top_version": 1,
                 "generation": "g1", "wrapped": b"x" * 180}
                for n in range(1, environments + 1) for root in range(ROOTS)
            ],
        )  # fmt: skip
        connection.execute(insert(models.repacks), [_repack(n, now) for n in range(1, environments + 1)])
        connection.execute(
            insert(models.shards),
            [
                _shard(n, number, keys // environments // shards_each, now)
                for n in range(1, environments + 1)
                for number in range(shards_each if n != environments else shards_each + 400)
            ],
        )
        for number in range(RECORDS):
            append_record(connection, action="repack.finished", actor="w", facts={"seen": number})
        row = connection.execute(models.repacks.select().where(models.repacks.c.id == environments)).one()
        found = connection.execute(models.environments.select().where(models.environments.c.id == environments)).one()
    ids["repack"], ids["environment"] = str(row.repack_id), str(found.environment_id)
    return ids


def _top(number: int, now: float) -> dict[str, Any]:
    main_key = "managed:" if number % 2 else f"aws-kms:arn:aws:kms:eu-west-1:111122223333:key/{uuid4()}"
    return {
        "environment": number, "version": 1, "main_key": main_key, "generation": "g1", "state": "active",
        "created_at": now,
    }  # fmt: skip


def _repack(number: int, now: float) -> dict[str, Any]:
    is_open = number % (1000 // OPEN) == 0
    return {
        "id": number, "repack_id": uuid4(), "environment": number, "mode": "deep",
        "state": "renewing" if is_open else "finished", "stage": "renew" if is_open else "shred", "level": 1,
        "levels": 1, "from_top": 1, "to_top": 1, "source_key": "managed:", "target_key": "aws-kms:x", "actor": "bench",
        "created_at": now - 60, "move_closed_at": now - 30, "ended_at": None if is_open else now - number,
    }  # fmt: skip


def _shard(repack: int, number: int, expected: int, now: float) -> dict[str, Any]:
    return {
        "repack": repack, "stage": "renew", "level": 1, "kind": "data", "after_parent": 0, "after_key": 0,
        "upto_parent": 1, "upto_key": number, "cursor_parent": 1, "cursor_key": number, "expected": expected,
        "state": "done", "seen": expected, "rewrapped": expected, "batches": 7, "started_at": now - 50,
        "checkpointed_at": now - 40, "finished_at": now - 40,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
